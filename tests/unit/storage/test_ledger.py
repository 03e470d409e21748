"""The ledger: recorded outcomes are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.storage.ledger import Ledger
from tests.support.ledgers import TRIAL, outcome, trial_content


def number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise CheckpointError("no number") from None


def test_the_first_outcome_stays(tmp_path):
    """A worker that was taken for dead may still speak, or its trial may be run once more."""
    ledger = Ledger(tmp_path)
    ledger.begin(TRIAL, trial_content(0))
    first = ledger.finish(TRIAL, outcome(0.5), None)
    assert ledger.finish(TRIAL, outcome(None), None) == first == ledger.read(TRIAL)


ROW = {"step": 5, "epoch": 1, "split": "validation", "accuracy": 0.5, "loss": 1.0, "time": 1.0}
PAUSE = {"paused_at": 1, "trajectory": [ROW], "seconds": 2.0, "started": 7.0}


def paused_ledger(folder: Path) -> Ledger:
    ledger = Ledger(folder)
    ledger.begin(TRIAL, trial_content(0))
    ledger.pause(TRIAL, PAUSE, b"checkpoint")
    return ledger


def test_a_pause_is_kept_until_the_trial_ends(tmp_path):
    ledger = paused_ledger(tmp_path)
    running = ledger.read(TRIAL)
    assert running["status"] == "running"
    assert running.items() >= PAUSE.items()
    ledger.hand_out(TRIAL, trial_content(0))
    assert ledger.read(TRIAL) == running
    assert [file.data for file in ledger.read_checkpoints(TRIAL)] == [b"checkpoint"]
    record = ledger.finish(TRIAL, {**outcome(0.5), "started": 9.0}, None)
    assert record == ledger.read(TRIAL)
    assert "paused_at" not in record
    assert record["started"] == 7.0, "it started before it was paused"
    assert record["trajectory"] == []
    assert ledger.read_checkpoints(TRIAL) == []


@pytest.mark.parametrize("end", ["finish", "stop"])
def test_a_trial_that_paused_twice_started_when_it_did_first(end, tmp_path):
    ledger = paused_ledger(tmp_path)
    ledger.hand_out(TRIAL, trial_content(0))
    later = {**PAUSE, "paused_at": 4, "trajectory": [ROW, {**ROW, "epoch": 4}], "seconds": 3.0}
    ledger.pause(TRIAL, {**later, "started": 8.0}, b"later")
    paused = ledger.read(TRIAL)
    assert {key: paused[key] for key in later} == {**later, "started": 7.0}
    if end == "finish":
        record = ledger.finish(TRIAL, {**outcome(0.5), "started": 9.0}, None)
    else:
        record = ledger.stop(TRIAL, 0.5)
    assert record["started"] == 7.0


def test_a_stopped_trial_keeps_its_way_to_the_rung(tmp_path):
    ledger = paused_ledger(tmp_path)
    record = ledger.stop(TRIAL, 0.5)
    assert record == ledger.read(TRIAL)
    kept = {"status": "stopped", "stopped_at": 1, "trajectory": [ROW], "metric": 0.5, "metrics": {}}
    assert record.items() >= kept.items()
    assert "paused_at" not in record
    assert ledger.read_checkpoints(TRIAL) == []


def test_an_ended_trial_is_neither_paused_nor_handed_out(tmp_path):
    """A worker that was taken for dead may still speak."""
    ledger = Ledger(tmp_path)
    ledger.begin(TRIAL, trial_content(0))
    ended = ledger.finish(TRIAL, outcome(0.5), None)
    ledger.pause(TRIAL, PAUSE, b"checkpoint")
    ledger.hand_out(TRIAL, trial_content(0))
    assert ledger.read(TRIAL) == ended
    assert ledger.read_checkpoints(TRIAL) == []


def test_a_number_that_json_has_no_word_for_is_refused_and_nothing_is_half_written(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin(TRIAL, trial_content(0))
    with pytest.raises(ValueError, match="JSON"):
        ledger.finish(TRIAL, outcome(float("nan")), None)
    assert ledger.read(TRIAL)["status"] == "running"


def test_a_sweep_keeps_its_identity(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.start({"trials": 1})
    first = ledger.description()
    ledger.start({"trials": 2})
    assert ledger.description() == {"id": first["id"], "trials": 2}
    assert json.loads((tmp_path / "ledger" / "sweep.json").read_text())["trials"] == 2
