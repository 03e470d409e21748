"""Ledgers with few trials of one study, written as a sweep writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.storage.study import Study

STUDY = Study("a", 0, "b", 1, {"loss": {"task": 1.0}})
TRIAL = STUDY.trial(0)
SETTINGS = {"stitch": {"name": "linear"}, "loss": {"task": 1.0}, "training": {"epochs": 1}}


def trial_content(number: int) -> dict:
    """The fields of a running trial's record."""
    return {**STUDY.key, "study": STUDY.id, "number": number, "params": {}, "settings": SETTINGS}


def outcome(metric: float | None) -> dict:
    """The outcome of a trial; None: the trial failed."""
    status = "failed" if metric is None else "finished"
    return {"status": status, "metric": metric, "metrics": {}, "trajectory": [], "seconds": 1.0}


def stopped_outcome(metric: float) -> dict:
    """The outcome of a trial that a scheduler stopped after its second epoch."""
    path = [
        {"split": "validation", "step": 4 * epoch, "epoch": epoch, "time": 1.0, "accuracy": metric}
        for epoch in (1, 2)
    ]
    return {**outcome(metric), "status": "stopped", "stopped_at": 2, "trajectory": path}


def end_trial(writer: LedgerWriter, ledger: Ledger, number: int, metric: float | None) -> None:
    """Begin and end a trial."""
    ledger.begin(STUDY.trial(number), trial_content(number))
    stitch = b"stitch" if metric else None
    writer.finish(STUDY.trial(number), outcome(metric), None, stitch)


def kept_stitches(ledger: Ledger) -> set[str]:
    """Ids of the trials whose stitches are stored."""
    return {path.stem for path in (ledger.folder / "stitches").glob("*")}


def ended_ledger(folder: Path, count: int = 1) -> Ledger:
    """A ledger of `count` finished trials, all with stitches."""
    ledger = Ledger(folder)
    ledger.start({"trials": count})
    writer = LedgerWriter(str(folder), "all", "max")
    for number in range(count):
        ledger.begin(STUDY.trial(number), trial_content(number))
        data = b"stitch %d" % number
        writer.finish(STUDY.trial(number), outcome(0.5 + number), np.arange(5), data)
    return ledger
