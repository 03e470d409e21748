"""How far a sweep got, read from its ledger, also while it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stitch_sweep.errors import InputError
from stitch_sweep.ledger import Ledger


def read_status(folder: Path) -> dict[str, Any]:
    """Counts of a sweep's trials by status, and whether a process is at work on it.

    Raises:
        InputError: the folder holds no sweep.
    """
    ledger = Ledger(folder)
    description = ledger.description()
    if description is None:
        raise InputError(f"{folder}: holds no sweep; `stitch-sweep sweep CONFIG` starts one")
    counts = {"finished": 0, "failed": 0, "running": 0}
    seconds, latest, copied = 0.0, 0.0, 0
    for record in ledger.records():
        counts[record["status"]] += 1
        copied += "copied_from" in record
        seconds += record.get("seconds", 0.0)
        latest = max(latest, record.get("started", 0.0) + record.get("seconds", 0.0))
    active = _is_active(ledger)
    if not active:
        # What was running when its process died is handed out again by a resume.
        counts = {**counts, "running": 0, "interrupted": counts["running"]}
    total = description["trials"]
    return {
        "state": "running" if active else "complete" if _ended(counts) >= total else "stopped",
        "trials": total,
        **counts,
        "copied": copied,  # counted among the finished and the failed
        "not_started": max(0, total - sum(counts.values())),
        "compute_hours": round(seconds / 3600, 3),
        "last_result": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(latest))
        if latest
        else "none",
    }


def _ended(counts: dict[str, int]) -> int:
    return counts["finished"] + counts["failed"]


def _is_active(ledger: Ledger) -> bool:
    lock = FileLock(ledger.root / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False
