"""Merging folders that are parts of one study, and comparing others."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.report.merging import merge
from stitch_sweep.report.reading import load_experiment
from tests.support.report_pages import edit, page_of, write
from tests.support.reports import make_folder


def test_parts_of_one_study_are_merged_with_what_differs_as_a_factor(tmp_path):
    task = make_folder(tmp_path / "task", losses=("task",), crossed=False)
    mse = make_folder(tmp_path / "mse", losses=("mse",), crossed=False)
    (merged,), apart = merge([load_experiment(task), load_experiment(mse)])
    assert apart == []
    assert merged.name == "task + mse"
    assert sorted(merged.results["factor.loss"].unique()) == ["mse", "task"]
    # The same cells have the same ids in both folders, and mean different trials.
    assert merged.results["trial"].is_unique
    assert set(merged.predictions["trial"]) == set(merged.results["trial"])
    assert set(merged.trajectories["trial"]) == set(merged.results["trial"])
    for matrix in matrices(merged.results):
        alone = matrices(load_experiment(tmp_path / matrix.factors["loss"]).results)[0]
        pd.testing.assert_frame_equal(matrix.values, alone.values)


def test_a_setting_that_one_folder_left_to_its_default_is_no_obstacle(tmp_path):
    """A number beside nothing, in a column of texts and numbers."""
    without_setting = make_folder(tmp_path / "left", losses=("task",), crossed=False)
    with_setting = make_folder(tmp_path / "given", losses=("mse",), crossed=False)
    path = with_setting / "config.resolved.yml"
    config = yaml.safe_load(path.read_text())
    config["training"]["optimizer"]["lr"] = 0.004
    path.write_text(yaml.safe_dump(config))
    (merged,), apart = merge([load_experiment(with_setting), load_experiment(without_setting)])
    assert apart == []
    assert [m.factors for m in matrices(merged.results)] == [{"loss": "mse"}, {"loss": "task"}]
    (note,) = [note for note in merged.notes if "differ in training.optimizer.lr too" in note]
    assert "always together with loss" in note


def test_what_tells_trials_of_one_loss_apart_is_a_factor_too(tmp_path):
    """The same loss in closed form and trained: told apart by the fewest settings that do."""
    folders = []
    for name, loss, epochs, start in (
        ("task", "task", 16, "least_squares"),
        ("closed", "mse", 0, "least_squares"),
        ("trained", "mse", 4, "random"),
    ):
        folders.append(make_folder(tmp_path / name, losses=(loss,), crossed=False))
        path = folders[-1] / "config.resolved.yml"
        config = yaml.safe_load(path.read_text())
        config["training"]["epochs"], config["stitch"]["start"] = epochs, start
        path.write_text(yaml.safe_dump(config))
    (merged,), _ = merge([load_experiment(folder) for folder in folders])
    assert [m.factors for m in matrices(merged.results)] == [
        {"loss": "mse", "stitch.start": "least_squares"},
        {"loss": "mse", "stitch.start": "random"},
        {"loss": "task", "stitch.start": "least_squares"},
    ]


def test_other_pairs_of_the_same_study_are_merged(tmp_path):
    first = make_folder(tmp_path / "one", pairs=(("a", "b"),))
    second = make_folder(tmp_path / "two", pairs=(("c", "d"),))
    (merged,), _ = merge([load_experiment(first), load_experiment(second)])
    assert len(matrices(merged.results)) == 4
    assert merged.planned == 64


def test_a_copy_of_a_folder_adds_nothing(tmp_path):
    first = make_folder(tmp_path / "one" / "x")
    second = make_folder(tmp_path / "two" / "x")
    (merged,), _ = merge([load_experiment(first), load_experiment(second)])
    pd.testing.assert_frame_equal(
        merged.results.drop(columns="folder"), load_experiment(first).results.drop(columns="folder")
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, "seed differs"),
        ({"data": "other"}, "data differ"),
        ({"layers": 3}, "a is not the same network in both"),
    ],
)
def test_folders_of_different_studies_are_compared(tmp_path, change, reason):
    first = make_folder(tmp_path / "one", losses=("task",), layers=2)
    second = make_folder(tmp_path / "two", losses=("task",), **{"layers": 2, **change})
    experiments, (explanation,) = merge([load_experiment(first), load_experiment(second)])
    assert len(experiments) == 2
    assert explanation == f"one and two are compared and not merged: {reason}"


def test_compared_folders_stand_side_by_side(tmp_path):
    first = make_folder(tmp_path / "one", losses=("task",), layers=2)
    second = make_folder(tmp_path / "two", losses=("task",), layers=2, seed=1)
    report = write(first, second, output=tmp_path / "out")
    assert len(report.verdicts) == 2
    page = page_of(tmp_path / "out")
    assert "one and two are compared and not merged: seed differs" in " ".join(page.text)
    assert {attrs.get("id") for tag, attrs in page.tags if tag == "h2"} >= {"compared", "summary-2"}
    head, *lines = (tmp_path / "out" / "tables" / "compared.csv").read_text().splitlines()
    assert "one: label" in head
    assert "two: label" in head
    assert len(lines) == 1
    assert not (first / "report.html").exists()


def test_the_same_trials_with_other_results_are_not_merged(tmp_path):
    first = make_folder(tmp_path / "one")
    second = make_folder(tmp_path / "two")
    edit(second, lambda t: t.assign(test_accuracy=t["test_accuracy"] / 2))
    _, (explanation,) = merge([load_experiment(first), load_experiment(second)])
    assert "trials of the same name and settings have different results" in explanation
