"""The Pareto front of each study, for searches with several objectives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stitch_sweep.analysis.results import CELL, PAIR, SETTING, Mode, factor_columns


def pareto_front(results: pd.DataFrame, objectives: Mapping[str, Mode]) -> pd.DataFrame:
    """Select the trials of each study that no other trial of the study dominates.

    A trial dominates another when it is at least as good in every objective and better in one. Trials
    that failed or lack an objective are skipped. Equal trials don't dominate each other, and all stay.

    Args:
        results: a row per trial, as `load_results` returns it.
        objectives: column -> whether its "max" or its "min" is best.

    Returns:
        Rows of `results`, study by study, within a study from best to worst in the first objective.
    """
    # A measure that no trial has leaves no column, or a column without a type.
    values = results.reindex(columns=list(objectives)).apply(pd.to_numeric)
    complete = (results["status"] == "finished") & values.notna().all(axis=1)
    candidates = results[complete].assign(**values[complete])
    signs = np.array([1.0 if mode == "max" else -1.0 for mode in objectives.values()])
    study = [*PAIR, *factor_columns(results), *CELL, "repeat"]
    fronts = [
        cells[_undominated(cells[list(objectives)].to_numpy(dtype="float64") * signs)]
        for _, cells in candidates.groupby(study, dropna=False)
    ]
    if not fronts:
        return candidates
    first = next(iter(objectives))
    return pd.concat(
        [front.sort_values([first, "number"], ascending=[signs[0] < 0, True]) for front in fronts],
        ignore_index=True,
    )


def _undominated(values: np.ndarray) -> np.ndarray:
    """Find the rows of values (N, M) that no other row dominates (higher is better): bool, shape (N,)."""
    is_undominated = np.ones(len(values), dtype=bool)
    for k, row in enumerate(
        values
    ):  # row by row: an N x N x M array is too large for large studies
        is_undominated[k] = not ((values >= row).all(axis=1) & (values > row).any(axis=1)).any()
    return is_undominated


def pareto_table(front: pd.DataFrame, objectives: Mapping[str, Mode]) -> pd.DataFrame:
    """Select the columns of a front that a reader needs: identity, objectives and searched settings."""
    identity = ["trial", *PAIR, *CELL, "repeat", "number", *factor_columns(front)]
    searched = [name for name in front.columns if str(name).startswith(SETTING)]
    return front.reindex(
        columns=list(dict.fromkeys([*identity, *objectives, "test_accuracy", *searched]))
    )
