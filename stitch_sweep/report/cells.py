"""The trials of every cell, with thinned trajectories, for the page's cell panel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from stitch_sweep.analysis.results import SETTING, best_trials
from stitch_sweep.report.experiment import Experiment
from stitch_sweep.report.terminal_tables import short_names
from stitch_sweep.report.wording import format_setting

MAX_POINTS = 40
"""Largest number of points that a trajectory keeps, the first and the last among them."""
MIN_POINTS = 8
"""Smallest number of points that a trajectory keeps."""
BUDGET = 240_000
"""Approximate largest number of values in all trajectories together."""
MAX_TRIALS = 3_000
"""With more trials, only the best trial of each study keeps its trajectory."""
DIGITS = 4
"""Significant digits of the page's numbers."""
_MAX_ERROR_LENGTH = 300


def describe_trials(
    experiment: Experiment, runs: Mapping[tuple[str, str], str]
) -> dict[str, dict[str, Any]]:
    """Collect the figures of every trial, by id.

    Args:
        experiment: the experiment.
        runs: (folder, trial) -> address of its MLflow run, as far as known.
    """
    results = experiment.results
    best = set(best_trials(results, experiment.metric, experiment.mode)["trial"])
    settings = short_names([str(n) for n in results.columns if str(n).startswith(SETTING)])
    described = {}
    for row in results.to_dict("records"):
        has_failed = row["status"] == "failed"
        trial = str(row["trial"])
        id_in_folder = trial.partition("@")[0]
        described[trial] = {
            "id": id_in_folder,
            "best": trial in best,
            "repeat": int(row["repeat"]),
            "test": _round(row.get("test_accuracy")),
            "calibrated": _round(row.get("accuracy_calibrated")),
            "val": _round(row.get("val_accuracy")),
            "penalty": _round(row.get("penalty")),
            "seconds": _round(row.get("seconds")),
            "converged": None if pd.isna(row["converged"]) else bool(row["converged"]),
            "error": str(row.get("error") or "no result")[:_MAX_ERROR_LENGTH]
            if has_failed
            else None,
            "stopped": int(row["stopped_at"]) if row["status"] == "stopped" else None,
            "settings": ", ".join(
                f"{short} {format_setting(row[name])}"
                for name, short in settings.items()
                if not pd.isna(row[name])
            ),
            "run": runs.get((str(row["folder"]), id_in_folder)),
        }
    return described


def _round(value: Any) -> float | None:
    if value is None or pd.isna(value) or not math.isfinite(value):
        return None
    return float(f"{float(value):.{DIGITS}g}")


def thin_trajectories(
    experiment: Experiment, trials: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[list[float]]]:
    """Thin the trajectories of trials.

    Args:
        experiment: the experiment.
        trials: as `describe_trials` returns them.

    Returns:
        trial -> `accuracy` (validation) at `steps[xv]` and `loss` (training) at `steps[xt]`; and
        `steps`, in epochs. Trials with equal steps share them.
    """
    table = experiment.trajectories
    if table is None or table.empty:
        return {}, []
    table = table[table["trial"].isin(list(trials))]
    if len(trials) > MAX_TRIALS:
        best = [trial for trial, figures in trials.items() if figures["best"]]
        table = table[table["trial"].isin(best)]
    number = max(table["trial"].nunique(), 1)
    points = max(MIN_POINTS, min(MAX_POINTS, BUDGET // (2 * number)))
    steps: dict[tuple[float, ...], int] = {}
    thinned = {}
    for trial, rows in table.groupby("trial", sort=False):
        last_step, last_epoch = float(rows["step"].max()), float(rows["epoch"].max())
        per_epoch = last_step / last_epoch if last_epoch > 0 and last_step > 0 else 1.0
        validation = rows[rows["split"] == "validation"]
        training = rows[rows["split"] == "train"]
        xv, accuracy = _thin(validation, "accuracy", per_epoch, points)
        xt, loss = _thin(training, "loss", per_epoch, points)
        thinned[str(trial)] = {
            "xv": steps.setdefault(xv, len(steps)),
            "accuracy": accuracy,
            "xt": steps.setdefault(xt, len(steps)),
            "loss": loss,
        }
    return thinned, [list(x) for x in steps]


def _thin(
    rows: pd.DataFrame, name: str, per_epoch: float, points: int
) -> tuple[tuple[float, ...], list[float]]:
    """Select rows evenly, the first and the last among them; return epochs and values."""
    if name not in rows:
        return (), []
    finite = rows[["step", name]].dropna()
    finite = finite[np.isfinite(finite[name].to_numpy(dtype="float64"))]
    if len(finite) > points:
        selected = np.unique(np.linspace(0, len(finite) - 1, points).round().astype(int))
        finite = finite.iloc[selected]
    epochs = tuple(float(f"{step / per_epoch:.3f}") for step in finite["step"])
    return epochs, [float(f"{value:.{DIGITS}g}") for value in finite[name]]
