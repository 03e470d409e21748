"""The status of a sweep: missing and damaged stitches; nothing is written."""

from __future__ import annotations

import pytest

from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.status import describe_left_out, read_status
from tests.support.ledgers import STUDY, TRIAL, ended_ledger, stopped_outcome, trial_content


def number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise CheckpointError("no number") from None


@pytest.mark.parametrize("harm", ["missing", "damaged", "other size", "folder"])
def test_stitches_that_are_missing_or_damaged_are_named(tmp_path, harm):
    ledger = ended_ledger(tmp_path, 3)
    assert read_status(tmp_path)["notes"] == []
    path = ledger.stitch_path(TRIAL)
    path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm != "missing":
        path.write_bytes(b"stitch 9" if harm == "damaged" else b"s")
    (note,) = read_status(tmp_path)["notes"]
    kind = "missing" if harm == "missing" else "damaged"
    assert f"1 kept stitches are {kind}, of trials {TRIAL};" in note
    assert "--retrain-stitches" in note


def test_stopped_trials_have_ended(tmp_path):
    ledger = ended_ledger(tmp_path, 2)
    trial = STUDY.trial(2)
    ledger.begin(trial, trial_content(2))
    ledger.start({"trials": 3})
    assert read_status(tmp_path)["state"] == "stopped"
    ledger.finish(trial, stopped_outcome(0.5), None)
    status = read_status(tmp_path)
    assert (status["state"], status["finished"], status["stopped_early"]) == ("complete", 2, 1)
    assert (status["failed"], status["not_started"], status["notes"]) == (0, 0, [])


def test_trials_that_conditions_left_out_are_not_missing(tmp_path):
    ledger = ended_ledger(tmp_path, 2)
    ledger.start({"trials": 5})
    assert read_status(tmp_path)["state"] == "stopped"
    ledger.start({"trials": 5, "left_out": {"patience": 2, "trials": 1}})
    status = read_status(tmp_path)
    assert (status["state"], status["left_out"], status["not_started"]) == ("complete", 3, 0)
    assert describe_left_out({"patience": 2, "trials": 1}, 5) == (
        "search.stop left out 3 of 5 trials: 2 by patience, 1 by trials"
    )


def test_status_writes_nothing(tmp_path):
    ended_ledger(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    assert read_status(tmp_path)["state"] == "complete"
    after = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    assert after == before
    with Ledger(tmp_path).lock():
        assert read_status(tmp_path)["state"] == "running"
    assert read_status(tmp_path)["state"] == "complete"
