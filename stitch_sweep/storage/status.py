"""Progress of a running or ended sweep, read from its ledger. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import list_briefly, size
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.records import RecordError

MOST_HASHED = 2**28
"""Total bytes of the stitches whose checksums are compared. For others, only the size is compared."""


def read_status(folder: Path) -> dict[str, Any]:
    """Count a sweep's trials by status, find damage, and detect whether the sweep is running.

    Returns:
        Plain data; `notes` has one sentence for each problem that needs the user's attention.

    Raises:
        InputError: the folder contains no sweep, or its `sweep.json` is damaged.
    """
    ledger = Ledger(folder)
    description = ledger.description()
    if description is None:
        raise InputError(f"{folder}: contains no sweep; `stitch-sweep sweep CONFIG` starts one")
    counts = {"finished": 0, "failed": 0, "stopped_early": 0, "running": 0}
    seconds, latest, copied, hashed, unhashed = 0.0, 0.0, 0, 0, 0
    damaged: list[RecordError] = []
    stitches: dict[str, list[str]] = {"missing": [], "damaged": []}
    for record in ledger.records(damaged.append):
        status = record["status"]
        counts["stopped_early" if status == "stopped" else status] += 1
        copied += "copied_from" in record
        seconds += record.get("seconds", 0.0)
        latest = max(latest, record.get("started", 0.0) + record.get("seconds", 0.0))
        if (stitch := record.get("stitch")) is not None:
            hashed += stitch["bytes"]
            unhashed += hashed > MOST_HASHED
            if problem := _check_stitch(ledger, record, content=hashed <= MOST_HASHED):
                stitches[problem].append(record["trial"])
    is_active = ledger.is_locked()
    if not is_active:
        # These trials were running when their process died. A resume starts them again.
        counts = {**counts, "running": 0, "interrupted": counts["running"]}
    total = description.get("trials", 0)
    left_out = description.get("left_out", {})
    if is_active:
        state = "running"
    else:
        ended = sum(counts[status] for status in ("finished", "failed", "stopped_early"))
        state = "complete" if ended + sum(left_out.values()) >= total else "stopped"
    return {
        "state": state,
        "trials": total,
        **counts,
        "copied": copied,  # also counted under its status
        "left_out": sum(left_out.values()),
        "not_started": max(0, total - sum(counts.values()) - sum(left_out.values()) - len(damaged)),
        "damaged": len(damaged),
        "compute_hours": round(seconds / 3600, 3),
        "last_result": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(latest))
        if latest
        else "none",
        "notes": list(_notes(ledger, damaged, stitches, unhashed)),
    }


def describe_left_out(left_out: Mapping[str, int], total: int) -> str:
    """Describe in a sentence, without its full stop, the trials that `search.stop` left out.

    Args:
        left_out: number of trials by the key of `search.stop`.
        total: number of trials of the sweep.

    Example:
        >>> describe_left_out({"trials": 30, "patience": 4}, 100)
        'search.stop left out 34 of 100 trials: 30 by trials, 4 by patience'
    """
    causes = ", ".join(f"{count} by {key}" for key, count in left_out.items())
    return f"search.stop left out {sum(left_out.values())} of {total} trials: {causes}"


def stitch_notes(stitches: Mapping[str, list[str]]) -> Iterator[str]:
    """Describe recorded stitches that can't be used, in one sentence for each problem.

    Args:
        stitches: trials by problem, `missing` or `damaged`.
    """
    for problem, trials in stitches.items():
        if trials:
            yield (
                f"{len(trials)} kept stitches are {problem}, of trials {list_briefly(trials)}; "
                "the results of these trials are not affected. Stitches can only be trained again: "
                "`stitch-sweep sweep CONFIG --resume --retrain-stitches` runs these trials again"
            )


def _notes(
    ledger: Ledger, damaged: list[RecordError], stitches: Mapping[str, list[str]], unhashed: int
) -> Iterator[str]:
    yield from (str(error) for error in damaged[:3])
    if len(damaged) > 3:
        yield f"{len(damaged) - 3} more records can't be used for similar reasons"
    yield from stitch_notes(stitches)
    if unhashed:
        yield (
            f"only the sizes of {unhashed} stitches were checked, because all stitches together are "
            f"larger than {size(MOST_HASHED)}; `--resume` checks their checksums"
        )
    if strays := ledger.stray_files():
        yield f"ledger/trials has files that are not records and are ignored: {list_briefly(strays)}"


def _check_stitch(ledger: Ledger, record: Mapping[str, Any], *, content: bool) -> str:
    problem = ledger.check_stitch(record, content=content)
    if not problem:
        return ""
    # A running sweep may have replaced the stitch since the record was read.
    try:
        current = ledger.read(record["trial"])
    except RecordError:
        return problem
    return "" if current is None else ledger.check_stitch(current, content=content)
