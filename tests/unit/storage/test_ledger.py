"""The ledger: recorded outcomes are kept."""

from __future__ import annotations

import json

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
