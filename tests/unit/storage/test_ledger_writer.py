"""The writer keeps the right stitches and removes leftovers of killed processes."""

from __future__ import annotations

import pytest

from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_writer import LedgerWriter
from stitch_sweep.storage.status import read_status
from tests.support.ledgers import (
    STUDY,
    TRIAL,
    end_trial,
    ended_ledger,
    kept_stitches,
    outcome,
    trial_content,
)


def number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise CheckpointError("no number") from None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 0)])
def test_the_best_stitch_of_a_study_is_kept_whatever_the_order(tmp_path, order, mode, best):
    ledger = Ledger(tmp_path)
    writer = LedgerWriter(str(tmp_path), "best", mode)
    metrics = {0: 0.2, 1: 0.7, 2: 0.7 if mode == "max" else 0.2}  # of equals the first
    for number in order:
        end_trial(writer, ledger, number, metrics[number])
    assert kept_stitches(ledger) == {STUDY.trial(best)}


def test_a_stitch_that_a_killed_writer_should_have_removed_is_removed(tmp_path):
    ledger = Ledger(tmp_path)
    all_kept = LedgerWriter(str(tmp_path), "all", "max")
    for number, metric in enumerate((0.2, 0.7)):
        end_trial(all_kept, ledger, number, metric)
    assert len(kept_stitches(ledger)) == 2
    LedgerWriter(str(tmp_path), "best", "max")
    assert kept_stitches(ledger) == {STUDY.trial(1)}


def test_a_trial_keeps_two_checkpoints_until_it_has_ended(tmp_path):
    ledger = Ledger(tmp_path)
    writer = LedgerWriter(str(tmp_path), "none", "max")
    ledger.begin(TRIAL, trial_content(0))
    assert writer.read_checkpoints(TRIAL) == []
    for data in (b"first", b"second", b"third"):
        writer.checkpoint(TRIAL, data)
    assert [found.data for found in writer.read_checkpoints(TRIAL)] == [b"third", b"second"]
    writer.finish(TRIAL, outcome(0.5), None, None)
    assert writer.read_checkpoints(TRIAL) == []
    assert list((ledger.root / "checkpoints").iterdir()) == []


def test_checkpoints_that_a_killed_writer_should_have_removed_are_removed(tmp_path):
    ledger = Ledger(tmp_path)
    over, running = STUDY.trial(0), STUDY.trial(1)
    for number, trial in enumerate((over, running)):
        ledger.begin(trial, trial_content(number))
    ledger.finish(over, outcome(0.5), None)
    for trial in (over, running):
        for data in (b"first", b"second"):
            ledger.write_checkpoint(trial, data)
    writer = LedgerWriter(str(tmp_path), "none", "max")
    assert writer.read_checkpoints(over) == []
    assert [found.data for found in writer.read_checkpoints(running)] == [b"second", b"first"]


@pytest.mark.parametrize("keep", ["best", "none"])
def test_stitches_that_are_not_kept_are_not_missed(tmp_path, keep):
    ledger = Ledger(tmp_path)
    ledger.start({"trials": 3})
    writer = LedgerWriter(str(tmp_path), keep, "max")
    for number, metric in enumerate((0.2, 0.7, 0.5)):
        end_trial(writer, ledger, number, metric)
    LedgerWriter(str(tmp_path), keep, "max")
    assert read_status(tmp_path)["notes"] == []
    assert len(kept_stitches(ledger)) == (keep == "best")


def test_a_stitch_that_was_replaced_is_not_removed(tmp_path):
    ended_ledger(tmp_path, 2)
    mine = Ledger(tmp_path).stitch_path(TRIAL)
    mine.write_bytes(b"a stitch of mine")
    LedgerWriter(str(tmp_path), "best", "max")
    assert mine.read_bytes() == b"a stitch of mine"
    assert Ledger(tmp_path).read(TRIAL)["stitch"] is None
