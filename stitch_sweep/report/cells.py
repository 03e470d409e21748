"""What a click on a cell opens: its trials, where they are tracked, and their trajectories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from stitch_sweep.analysis.results import SETTING, best_trials
from stitch_sweep.report.experiment import Experiment
from stitch_sweep.report.terminal_tables import short_names

POINTS = 40
"""At most so many points of one trajectory are kept, the first and the last among them."""
BUDGET = 240_000
"""At most about so many numbers of all trajectories together."""
FEWEST = 8
MOST_TRIALS = 3_000
"""Above so many trials only the best of each study has its trajectory in the report."""
DIGITS = 4


def trials(
    experiment: Experiment, runs: Mapping[tuple[str, str], str]
) -> dict[str, dict[str, Any]]:
    """Every trial's figures, by id.

    Args:
        experiment: of which results are read.
        runs: (folder, trial) -> address of its MLflow run, as far as known.
    """
    results = experiment.results
    best = set(best_trials(results, experiment.metric, experiment.mode)["trial"])
    settings = short_names([str(n) for n in results.columns if str(n).startswith(SETTING)])
    found = {}
    for row in results.to_dict("records"):
        failed = row["status"] != "finished"
        trial = str(row["trial"])
        plain = trial.partition("@")[0]  # what its own folder calls it
        found[trial] = {
            "id": plain,
            "best": trial in best,
            "repeat": int(row["repeat"]),
            "test": _number(row.get("test_accuracy")),
            "calibrated": _number(row.get("accuracy_calibrated")),
            "val": _number(row.get("val_accuracy")),
            "penalty": _number(row.get("penalty")),
            "seconds": _number(row.get("seconds")),
            "converged": None if pd.isna(row["converged"]) else bool(row["converged"]),
            "error": str(row.get("error") or "no result")[:300] if failed else None,
            "settings": ", ".join(
                f"{short} {_setting(row[name])}"
                for name, short in settings.items()
                if not pd.isna(row[name])
            ),
            "run": runs.get((str(row["folder"]), plain)),
        }
    return found


def _number(value: Any) -> float | None:
    if value is None or pd.isna(value) or not math.isfinite(value):
        return None
    return float(f"{float(value):.{DIGITS}g}")


def _setting(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def trajectories(
    experiment: Experiment, known: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[list[float]]]:
    """Thinned trajectories, by trial, and the steps they stand at, which trials share.

    Args:
        experiment: of which trajectories are read.
        known: what `trials` returned.

    Returns:
        trial -> `accuracy` (validation) at `steps[xv]`, `loss` (training) at `steps[xt]`; and `steps`,
        in epochs.
    """
    table = experiment.trajectories
    if table is None or table.empty:
        return {}, []
    table = table[table["trial"].isin(list(known))]
    if len(known) > MOST_TRIALS:
        best = [trial for trial, about in known.items() if about["best"]]
        table = table[table["trial"].isin(best)]
    number = max(table["trial"].nunique(), 1)
    points = max(FEWEST, min(POINTS, BUDGET // (2 * number)))
    steps: dict[tuple[float, ...], int] = {}
    found = {}
    for trial, rows in table.groupby("trial", sort=False):
        last_step, last_epoch = float(rows["step"].max()), float(rows["epoch"].max())
        per_epoch = last_step / last_epoch if last_epoch > 0 and last_step > 0 else 1.0
        held = rows[rows["split"] == "validation"]
        taught = rows[rows["split"] == "train"]
        xv, accuracy = _thinned(held, "accuracy", per_epoch, points)
        xt, loss = _thinned(taught, "loss", per_epoch, points)
        found[str(trial)] = {
            "xv": steps.setdefault(xv, len(steps)),
            "accuracy": accuracy,
            "xt": steps.setdefault(xt, len(steps)),
            "loss": loss,
        }
    return found, [list(x) for x in steps]


def _thinned(
    rows: pd.DataFrame, name: str, per_epoch: float, points: int
) -> tuple[tuple[float, ...], list[float]]:
    """At most so many rows, evenly spread; the first and the last are kept."""
    if name not in rows:
        return (), []
    known = rows[["step", name]].dropna()
    known = known[np.isfinite(known[name].to_numpy(dtype="float64"))]
    if len(known) > points:
        known = known.iloc[np.unique(np.linspace(0, len(known) - 1, points).round().astype(int))]
    epochs = tuple(float(f"{step / per_epoch:.3f}") for step in known["step"])
    return epochs, [float(f"{value:.{DIGITS}g}") for value in known[name]]
