"""Retraining of ended trials whose stitches are lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stitch_sweep.storage import layout
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.records import read_record, seal, trial_from_path, without_outcome

_COMPARED = ("status", "metrics", "trajectory", "predictions")


def begin_retraining(ledger: Ledger, record: Mapping[str, Any]) -> None:
    """Record an ended trial as running, with its parameters, and keep its former record for comparison.

    A file in the place of its stitch is moved to `ledger/set_aside`.

    Args:
        ledger: the sweep's ledger.
        record: record of the ended trial.
    """
    trial = record["trial"]
    write_atomically(_former_records(ledger) / f"{trial}.json", seal(record))
    stitch = ledger.stitch_path(trial)
    if stitch.exists() or stitch.is_symlink():
        ledger.set_aside(stitch)
    ledger.begin(trial, without_outcome(record))


def compare_retrained(ledger: Ledger) -> list[str]:
    """Compare retrained trials with their former records.

    Equal former records are removed; different ones are moved to `ledger/set_aside`.

    Returns:
        One sentence for each trial with a different outcome.
    """
    problems = []
    for path in sorted(_former_records(ledger).glob("*.json")):
        trial = trial_from_path(path)
        former = None if trial is None else read_record(path, trial)
        current = None if trial is None else ledger.read(trial)
        if former is None or current is None or current["status"] == "running":
            continue
        different = [
            key for key in _COMPARED if _without_times(former, key) != _without_times(current, key)
        ]
        if different:
            problems.append(
                f"trial {trial} was trained again with a different result ({', '.join(different)} "
                f"differ); its former record is now {ledger.set_aside(path)}"
            )
        else:
            path.unlink()
    return problems


def _former_records(ledger: Ledger) -> Path:
    return ledger.root / layout.RETRAINED


def _without_times(record: Mapping[str, Any], key: str) -> Any:
    if key != "trajectory":
        return record.get(key)
    return [{name: row[name] for name in row if name != "time"} for row in record[key]]
