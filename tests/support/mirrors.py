"""Experiment folders with a few trials, and their content, to be mirrored."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.storage.study import Study


def read_files(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder, without locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("lock")
    }


STUDY = Study("a", 1, "b", 2)


def trial_content(study: Study, number: int) -> dict[str, object]:
    """Return the record of a trial that is handed out."""
    settings = {"stitch": {"name": "linear"}, "loss": {"task": 1.0}}
    about = {"study": study.id, "number": number, "params": {}, "settings": settings}
    return {**study.key, **about}


OUTCOME = {"status": "finished", "metrics": {}, "trajectory": [], "seconds": 1.0}


def begin_sweep(folder: Path, trials: int = 3) -> Ledger:
    """Write the ledger of a sweep with running trials."""
    ledger = Ledger(folder)
    ledger.start({"decides": {}})
    for number in range(trials):
        ledger.begin(STUDY.trial(number), trial_content(STUDY, number))
    return ledger


def end_trial(folder: Path, number: int, metric: float, keep: str = "all") -> None:
    outcome = {**OUTCOME, "metric": metric}
    writer = LedgerWriter(str(folder), keep, "max")
    writer.finish(STUDY.trial(number), outcome, np.arange(3), b"stitch %d" % number)
