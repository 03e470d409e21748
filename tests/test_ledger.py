"""The ledger alone: what is recorded stays, and what a killed process left behind is put right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stitch_sweep.ledger import Ledger, LedgerBusyError, LedgerWriter, Study, predictions_of

STUDY = Study("a", 0, "b", 1, {"loss": {"task": 1.0}})


def content(number: int) -> dict:
    return {**STUDY.key, "study": STUDY.id, "number": number, "params": {}, "settings": {}}


def outcome(metric: float | None) -> dict:
    status = "failed" if metric is None else "finished"
    return {"status": status, "metric": metric, "metrics": {}, "trajectory": [], "seconds": 1.0}


def end(writer: LedgerWriter, ledger: Ledger, number: int, metric: float | None) -> None:
    ledger.begin(STUDY.trial(number), content(number))
    writer.finish(STUDY.trial(number), outcome(metric), None, b"stitch" if metric else None)


def kept(ledger: Ledger) -> set[str]:
    return {path.stem for path in (ledger.folder / "stitches").glob("*")}


@pytest.mark.parametrize("classes", [2, 10, 300, 70_000])
def test_predictions_come_back_equal(tmp_path, classes):
    ledger = Ledger(tmp_path)
    predictions = np.random.default_rng(0).integers(classes, size=500)
    predictions[0] = classes - 1
    ledger.begin("t", content(0))
    record = ledger.finish("t", outcome(0.5), predictions)
    assert np.array_equal(predictions_of(record), predictions)
    assert np.array_equal(predictions_of(ledger.read("t")), predictions)


def test_the_first_outcome_stays(tmp_path):
    """A worker that was taken for dead may still speak, or its trial may be run once more."""
    ledger = Ledger(tmp_path)
    ledger.begin("t", content(0))
    first = ledger.finish("t", outcome(0.5), None)
    assert ledger.finish("t", outcome(None), None) == first == ledger.read("t")


def test_a_number_that_json_has_no_word_for_is_refused_and_nothing_is_half_written(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin("t", content(0))
    with pytest.raises(ValueError, match="JSON"):
        ledger.finish("t", outcome(float("nan")), None)
    assert ledger.read("t")["status"] == "running"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 0)])
def test_the_best_stitch_of_a_study_is_kept_whatever_the_order(tmp_path, order, mode, best):
    ledger = Ledger(tmp_path)
    writer = LedgerWriter(str(tmp_path), "best", mode)
    metrics = {0: 0.2, 1: 0.7, 2: 0.7 if mode == "max" else 0.2}  # of equals the first
    for number in order:
        end(writer, ledger, number, metrics[number])
    assert kept(ledger) == {STUDY.trial(best)}


def test_a_stitch_that_a_killed_writer_should_have_removed_is_removed(tmp_path):
    ledger = Ledger(tmp_path)
    all_kept = LedgerWriter(str(tmp_path), "all", "max")
    for number, metric in enumerate((0.2, 0.7)):
        end(all_kept, ledger, number, metric)
    assert len(kept(ledger)) == 2
    LedgerWriter(str(tmp_path), "best", "max")
    assert kept(ledger) == {STUDY.trial(1)}


def test_a_trial_keeps_two_checkpoints_until_it_has_ended(tmp_path):
    ledger = Ledger(tmp_path)
    writer = LedgerWriter(str(tmp_path), "none", "max")
    ledger.begin("t", content(0))
    assert writer.read_checkpoints("t") == []
    for data in (b"first", b"second", b"third"):
        writer.checkpoint("t", data)
    assert [found.data for found in writer.read_checkpoints("t")] == [b"third", b"second"]
    writer.finish("t", outcome(0.5), None, None)
    assert writer.read_checkpoints("t") == []
    assert list((ledger.root / "checkpoints").iterdir()) == []


def test_checkpoints_that_a_killed_writer_should_have_removed_are_removed(tmp_path):
    ledger = Ledger(tmp_path)
    for number, trial in enumerate(("ended", "running")):
        ledger.begin(trial, content(number))
    ledger.finish("ended", {**outcome(0.5), "study": STUDY.id}, None)
    for trial in ("ended", "running"):
        for data in (b"first", b"second"):
            ledger.write_checkpoint(trial, data)
    writer = LedgerWriter(str(tmp_path), "none", "max")
    assert writer.read_checkpoints("ended") == []
    assert [found.data for found in writer.read_checkpoints("running")] == [b"second", b"first"]


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    code = (
        "import sys; from stitch_sweep.ledger import Ledger; lock = Ledger(sys.argv[1]).lock();"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LedgerBusyError, match=f"process {holder.pid}"):
            Ledger(tmp_path).lock()
        holder.kill()
        holder.wait()
        with Ledger(tmp_path).lock():
            pass


def test_temporary_files_of_a_killed_process_are_cleared_away(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin("t", content(0))
    left = [ledger.root / "trials" / ".1234.tmp", tmp_path / ".5678.tmp"]
    for path in left:
        path.write_bytes(b"half")
    with ledger.lock():
        assert not any(path.exists() for path in left)
    assert ledger.trial_ids() == {"t"}


def test_a_sweep_keeps_its_identity(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.start({"trials": 1})
    first = ledger.description()
    ledger.start({"trials": 2})
    assert ledger.description() == {"id": first["id"], "trials": 2}
    assert json.loads((tmp_path / "ledger" / "sweep.json").read_text())["trials"] == 2


def test_studies_that_differ_have_names_that_differ():
    names = {
        Study("a", 0, "b", 1).id,
        Study("a", 1, "b", 1).id,
        Study("a.0-b", 0, "b", 1).id,
        Study("a", -1, "b", 1).id,
        Study("a", 0, "b", 1, {"x": 1}).id,
        Study("a", 0, "b", 1, {"x": 2}).id,
        Study("a", 0, "b", 1, repeat=1).id,
    }
    assert len(names) == 7
    assert all(Path(name).name == name for name in names)
