"""How far a sweep got, read from its ledger, also while it runs. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import size
from stitch_sweep.storage.ledger import Ledger, some
from stitch_sweep.storage.records import RecordError

MOST_HASHED = 2**28
"""Bytes of stitches whose checksums are compared; of further ones only the sizes."""


def read_status(folder: Path) -> dict[str, Any]:
    """Counts of a sweep's trials by status, what is damaged, and whether a process is at work on it.

    Returns:
        Plain data; `notes` has a sentence about everything that a user should look at.

    Raises:
        InputError: the folder holds no sweep, or its `sweep.json` is damaged.
    """
    ledger = Ledger(folder)
    description = ledger.description()
    if description is None:
        raise InputError(f"{folder}: holds no sweep; `stitch-sweep sweep CONFIG` starts one")
    counts = {"finished": 0, "failed": 0, "running": 0}
    seconds, latest, copied, hashed, unhashed = 0.0, 0.0, 0, 0, 0
    damaged: list[RecordError] = []
    stitches: dict[str, list[str]] = {"missing": [], "damaged": []}
    for record in ledger.records(damaged.append):
        counts[record["status"]] += 1
        copied += "copied_from" in record
        seconds += record.get("seconds", 0.0)
        latest = max(latest, record.get("started", 0.0) + record.get("seconds", 0.0))
        if (stitch := record.get("stitch")) is not None:
            hashed += stitch["bytes"]
            unhashed += hashed > MOST_HASHED
            if problem := _problem(ledger, record, content=hashed <= MOST_HASHED):
                stitches[problem].append(record["trial"])
    active = ledger.is_locked()
    if not active:
        # A trial that ran when its process died is handed out again by a resume.
        counts = {**counts, "running": 0, "interrupted": counts["running"]}
    total = description.get("trials", 0)
    return {
        "state": "running" if active else "complete" if _ended(counts) >= total else "stopped",
        "trials": total,
        **counts,
        "copied": copied,  # counted among the finished and the failed
        "not_started": max(0, total - sum(counts.values()) - len(damaged)),
        "damaged": len(damaged),
        "compute_hours": round(seconds / 3600, 3),
        "last_result": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(latest))
        if latest
        else "none",
        "notes": list(_notes(ledger, damaged, stitches, unhashed)),
    }


def stitch_notes(stitches: Mapping[str, list[str]]) -> Iterator[str]:
    """Sentences about stitches that records tell of and that can't be used.

    Args:
        stitches: trials by problem, `missing` or `damaged`.
    """
    for problem, trials in stitches.items():
        if trials:
            yield (
                f"{len(trials)} kept stitches are {problem}, of trials {some(trials)}; their results "
                "are not affected. Only training brings them back: `stitch-sweep sweep CONFIG "
                "--resume --retrain-stitches` runs these trials again"
            )


def _notes(
    ledger: Ledger, damaged: list[RecordError], stitches: Mapping[str, list[str]], unhashed: int
) -> Iterator[str]:
    yield from (str(error) for error in damaged[:3])
    if len(damaged) > 3:
        yield f"{len(damaged) - 3} more records can't be used for such reasons"
    yield from stitch_notes(stitches)
    if unhashed:
        yield (
            f"of {unhashed} stitches only the sizes were compared, because all together are larger "
            f"than {size(MOST_HASHED)}; `--resume` compares their checksums"
        )
    if strays := ledger.stray_files():
        yield f"ledger/trials has files that are no records, and are ignored: {some(strays)}"


def _problem(ledger: Ledger, record: Mapping[str, Any], *, content: bool) -> str:
    problem = ledger.check_stitch(record, content=content)
    if not problem:
        return ""
    # A running sweep may have replaced it by a better one since the record was read.
    try:
        now = ledger.read(record["trial"])
    except RecordError:
        return problem
    return "" if now is None else ledger.check_stitch(now, content=content)


def _ended(counts: Mapping[str, int]) -> int:
    return counts["finished"] + counts["failed"]
