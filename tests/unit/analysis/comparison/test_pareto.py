"""The Pareto front of searches with several objectives."""

from __future__ import annotations

import json

import numpy as np
import optuna
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial

from stitch_sweep.analysis.comparison.pareto import pareto_front
from stitch_sweep.analysis.results import check_results
from stitch_sweep.sweep.matrix_files import MANIFEST, write_analysis

GOALS = {"val_accuracy": "max", "val_relative_mse": "min"}


def table(values: list[tuple[float, float]], **columns: object) -> pd.DataFrame:
    accuracy, distance = zip(*values, strict=True)
    return check_results(
        pd.DataFrame(
            {
                "trial": [f"t{k}" for k in range(len(values))],
                "sender": "a",
                "receiver": "b",
                "sender_layer": 0,
                "receiver_layer": 0,
                "repeat": 0,
                "number": range(len(values)),
                "status": "finished",
                "val_accuracy": accuracy,
                "val_relative_mse": distance,
                "test_accuracy": accuracy,
                "penalty": 0.0,
                "sender_accuracy": 0.9,
                "receiver_accuracy": 0.9,
                "converged": True,
                **columns,
            }
        )
    )


coarse = st.integers(0, 5).map(lambda k: k / 5)  # so that there are equals


@given(st.lists(st.tuples(coarse, coarse), min_size=1, max_size=25))
def test_it_is_what_optuna_says(values):
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trials([optuna.trial.create_trial(values=list(v)) for v in values])

    def numbers(trials: list[FrozenTrial]) -> set[int]:
        return {trial.number for trial in trials}

    assert set(pareto_front(table(values), GOALS)["number"]) == numbers(study.best_trials)


def test_every_study_has_a_front_of_its_own():
    values = [(0.9, 0.1), (0.5, 0.5), (0.4, 0.9)]
    results = table(values, sender_layer=[0, 1, 1])
    assert list(pareto_front(results, GOALS)["trial"]) == ["t0", "t1"]
    results = table(values, **{"factor.loss": ["task", "mse", "mse"]})
    assert list(pareto_front(results, GOALS)["trial"]) == ["t1", "t0"]


def test_failed_trials_and_those_that_lack_an_objective_take_no_part():
    values = [(1.0, 0.0), (0.9, float("nan")), (0.5, 0.5)]
    results = table(values, status=["failed", "finished", "finished"])
    assert list(pareto_front(results, GOALS)["trial"]) == ["t2"]


def test_a_measure_that_no_trial_has_leaves_an_empty_front(tmp_path):
    for column in ({}, {"val_cca": None}):
        results = table([(0.9, 0.1), (0.5, 0.5)], **column)
        goals = {"val_accuracy": "max", "val_cca": "max"}
        assert pareto_front(results, goals).empty
        write_analysis(tmp_path, results, objectives=goals)
        assert pd.read_csv(tmp_path / "pareto.csv").empty


def test_files_come_with_objectives_and_go_without(tmp_path):
    rng = np.random.default_rng(0)
    values = [tuple(row) for row in rng.random((40, 2))]
    settings = {"setting.stitch.rank": range(40), "sender_layer": [0, 1] * 20}
    write_analysis(tmp_path, table(values, **settings), objectives=GOALS)
    written = pd.read_csv(tmp_path / "pareto.csv")
    assert {*GOALS, "setting.stitch.rank", "sender_layer"} <= set(written.columns)
    assert set(written["trial"]) == set(pareto_front(table(values, **settings), GOALS)["trial"])
    assert (tmp_path / "figures" / "pareto__a__b.png").exists()
    write_analysis(tmp_path, table(values, **settings))
    assert not (tmp_path / "pareto.csv").exists()
    assert not (tmp_path / "figures" / "pareto__a__b.png").exists()
    assert "pareto" not in json.dumps(json.loads((tmp_path / MANIFEST).read_text()))
