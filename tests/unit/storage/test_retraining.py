"""Trials that are trained again for their stitches."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.storage.records import seal
from stitch_sweep.storage.retraining import begin_retraining, compare_retrained
from stitch_sweep.storage.status import read_status
from tests.support.ledgers import TRIAL, ended_ledger, outcome, trial_content


def number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise CheckpointError("no number") from None


@pytest.mark.parametrize("metric", [0.5, 0.6])
def test_a_retrained_trial_must_come_out_the_same(tmp_path, metric):
    ledger = ended_ledger(tmp_path)
    ledger.stitch_path(TRIAL).write_bytes(b"damaged")
    former = ledger.read(TRIAL)
    begin_retraining(ledger, former)
    assert ledger.read(TRIAL) == {**trial_content(0), "trial": TRIAL, "status": "running"}
    assert (ledger.root / "set_aside" / f"{TRIAL}.safetensors").read_bytes() == b"damaged"
    assert compare_retrained(ledger) == [], "it runs"
    again = {**outcome(metric), "metrics": {"test_accuracy": metric}}
    former_metrics = {"test_accuracy": 0.5}
    write_atomically(
        ledger.root / "retrained" / f"{TRIAL}.json", seal({**former, "metrics": former_metrics})
    )
    LedgerWriter(str(tmp_path), "all", "max").finish(TRIAL, again, np.arange(5), b"stitch 0")
    differences = compare_retrained(ledger)
    assert read_status(tmp_path)["notes"] == []
    if metric == 0.5:
        assert differences == []
        assert not list((ledger.root / "retrained").iterdir())
    else:
        (difference,) = differences
        assert "metrics differ" in difference
        assert json.loads((ledger.root / "set_aside" / f"{TRIAL}.json").read_text())
    assert compare_retrained(ledger) == []
