"""Encoding of predicted classes."""

from __future__ import annotations

import numpy as np
import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.predictions import decode_predictions
from tests.support.ledgers import TRIAL, ended_ledger, outcome, trial_content


def number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise CheckpointError("no number") from None


@pytest.mark.parametrize("classes", [2, 10, 300, 70_000])
def test_predictions_come_back_equal(tmp_path, classes):
    ledger = Ledger(tmp_path)
    predictions = np.random.default_rng(0).integers(classes, size=500)
    predictions[0] = classes - 1
    ledger.begin(TRIAL, trial_content(0))
    record = ledger.finish(TRIAL, outcome(0.5), predictions)
    assert np.array_equal(decode_predictions(record), predictions)
    assert np.array_equal(decode_predictions(ledger.read(TRIAL)), predictions)


def test_predictions_that_would_fill_the_memory_are_refused(monkeypatch, tmp_path):
    record = ended_ledger(tmp_path).read(TRIAL)
    monkeypatch.setattr("stitch_sweep.storage.predictions._LARGEST", 4)
    with pytest.raises(InputError, match="can't be unpacked"):
        decode_predictions(record)
