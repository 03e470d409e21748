"""Experiment folders, as `load` opens them."""

from __future__ import annotations

import pandas as pd
import pytest

import stitch_sweep as ss
from stitch_sweep.storage import layout
from tests.support.reports import make_folder


def test_the_tables_are_those_of_the_folder(tmp_path):
    experiment = ss.load(make_folder(tmp_path / "sweep"))
    stored = pd.read_parquet(tmp_path / "sweep" / layout.RESULTS)
    assert list(experiment.results["trial"]) == list(stored["trial"])
    assert set(experiment.trajectories["trial"]) <= set(stored["trial"])
    assert set(experiment.predictions["trial"]) <= set(stored["trial"])
    assert len(experiment.matrices) == 2
    for title, values in experiment.matrices.items():
        loss = "mse" if "mse" in title else "task"
        rows = stored[stored["loss"] == loss].set_index(["sender_layer", "receiver_layer"])
        assert values.stack().to_dict() == pytest.approx(rows["test_accuracy"].to_dict())


def test_a_running_sweep_is_read_from_its_ledger(tmp_path):
    experiment = ss.load(make_folder(tmp_path / "sweep", ended=5, tables=False))
    assert len(experiment.results) == 5
    assert "5 of" in repr(experiment)


def test_pictures_and_text_of_a_notebook(tmp_path):
    experiment = ss.load(make_folder(tmp_path / "sweep", losses=("task",)))
    assert experiment.plot()._repr_png_().startswith(b"\x89PNG")
    assert "<img" in experiment._repr_html_()


def test_a_missing_stitch_is_a_key_error_with_a_sentence(tmp_path):
    experiment = ss.load(make_folder(tmp_path / "sweep"))
    assert dict(experiment.stitches) == {}
    assert experiment.stitches.get("nope") is None
    with pytest.raises(KeyError, match="trial 'nope' has no stored stitch"):
        experiment.stitches["nope"]


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(ss.InputError, match="contains no sweep"):
        ss.load(tmp_path)
    with pytest.raises(ss.InputError, match="not a folder"):
        ss.load(tmp_path / "nope")
