"""Trials and thinned trajectories of the cell panel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stitch_sweep.report.cells import MAX_POINTS, describe_trials, thin_trajectories
from stitch_sweep.report.reading import load_experiment
from tests.support.reports import make_folder


def test_trajectories_are_thinned_and_keep_their_ends(folder):
    experiment = load_experiment(folder)
    first = experiment.results["trial"].iloc[0]
    steps = np.arange(1, 1001)
    long = pd.DataFrame({"trial": first, "step": steps, "epoch": (steps + 99) // 100, "split": "train",
                         "loss": 1 / steps, "accuracy": np.nan})  # fmt: skip
    experiment = type(experiment)(
        experiment.parts,
        experiment.results,
        trajectories=pd.concat([experiment.trajectories, long]),
    )
    described = describe_trials(experiment, {})
    thinned, steps_of_paths = thin_trajectories(experiment, described)
    path = thinned[first]
    assert len(path["loss"]) == len(steps_of_paths[path["xt"]]) == MAX_POINTS
    assert path["loss"][-1] == pytest.approx(1e-3)
    assert steps_of_paths[path["xt"]][-1] == 10.0
    others = {value["xv"] for trial, value in thinned.items() if trial != first}
    assert len(others) == 1, "equal steps are kept once"


def test_only_the_best_of_very_many_trials_keep_their_trajectories(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "sweep", samples=2, layers=2)
    experiment = load_experiment(folder)
    described = describe_trials(experiment, {})
    assert len(thin_trajectories(experiment, described)[0]) == 16
    monkeypatch.setattr("stitch_sweep.report.cells.MAX_TRIALS", 15)
    kept, _ = thin_trajectories(experiment, described)
    assert set(kept) == {trial for trial, about in described.items() if about["best"]}


def test_a_stopped_trial_is_no_failure_and_shows_how_far_it_ran(tmp_path):
    folder = make_folder(tmp_path / "sweep", samples=3, layers=2, stopped=(1, 2), failed=((0, 0),))
    experiment = load_experiment(folder)
    described = describe_trials(experiment, {})
    by_status = {
        status: [described[trial] for trial in rows["trial"]]
        for status, rows in experiment.results.groupby("status")
    }
    assert {status: len(trials) for status, trials in by_status.items()} == {
        "failed": 6,
        "finished": 6,
        "stopped": 12,
    }
    assert all(t["stopped"] == 2 and not t["error"] for t in by_status["stopped"])
    assert not any(t["best"] for t in by_status["stopped"])
    assert not any(t["stopped"] or t["error"] for t in by_status["finished"])
    assert all(t["error"] and not t["stopped"] for t in by_status["failed"])
    thinned, steps = thin_trajectories(experiment, described)
    stopped = experiment.results.loc[experiment.results["status"] == "stopped", "trial"]
    assert {steps[thinned[trial]["xv"]][-1] for trial in stopped} == {2.0}
