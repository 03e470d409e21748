"""Build stitching matrices from a table of trials."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.results import CELL, FACTOR, PAIR, Mode, best_trials, factor_columns
from stitch_sweep.core.errors import InputError, nearest


def _to_python(value: Any) -> Any:
    """Convert a factor's value to a plain Python object; None for a missing one."""
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _first_defined(column: pd.Series) -> float:
    defined = column.dropna()
    return float(defined.iloc[0]) if len(defined) else math.nan


def matrices(
    results: pd.DataFrame,
    value: str = "test_accuracy",
    *,
    metric: str = "val_accuracy",
    mode: Mode = "max",
) -> list[Matrix]:
    """Build one matrix per sender, receiver and combination of factor values.

    A cell is the mean over repeats of `value` of the trial that `best_trials` chose. All matrices of
    a pair have the same layers: those that any of the pair's trials used.

    Args:
        results: a row per trial, as `load_results` returns it.
        value: the numeric column of the matrices' values.
        metric: the column that chooses trials.
        mode: whether its "max" or its "min" is best.

    Returns:
        The matrices, sorted by sender, receiver and factor values.

    Raises:
        InputError: no such column, or a metric that can't choose.

    Example:
        >>> matrices(load_results(folder))[0].values.loc[2, 3]  # doctest: +SKIP
        0.91
    """
    numeric = [str(name) for name in results.columns if types.is_numeric_dtype(results[name])]
    if value not in numeric:
        raise InputError(f"value {value!r} is not a numeric column; {nearest(value, numeric)}")
    best = best_trials(results, metric, mode)
    layers = {
        (str(sender), str(receiver)): [sorted({int(k) for k in cells[name]}) for name in CELL]
        for (sender, receiver), cells in results.groupby(PAIR)
    }
    return [
        _matrix(cells, value, pair=pair, factors=factors, layers=layers[pair])
        for pair, factors, cells in best_by_matrix(best)
    ]


def best_by_matrix(
    best: pd.DataFrame,
) -> list[tuple[tuple[str, str], dict[str, Any], pd.DataFrame]]:
    """Group the best trials by matrix: (sender, receiver), factors and trials of each."""
    columns = factor_columns(best)
    names = [name.removeprefix(FACTOR) for name in columns]
    return [
        ((str(key[0]), str(key[1])), dict(zip(names, map(_to_python, key[2:]), strict=True)), cells)
        for key, cells in best.groupby([*PAIR, *columns], dropna=False)
    ]


def trials_of(results: pd.DataFrame, matrix: Matrix) -> pd.DataFrame:
    """Select the trials that belong to a matrix: those of its pair with its factor values."""
    rows = results[(results["sender"] == matrix.sender) & (results["receiver"] == matrix.receiver)]
    for path, value in matrix.factors.items():
        column = rows[f"{FACTOR}{path}"]
        rows = rows[column.isna() if value is None else column == value]
    return rows


def _matrix(
    best: pd.DataFrame,
    value: str,
    *,
    pair: tuple[str, str],
    factors: dict[str, Any],
    layers: list[list[int]],
) -> Matrix:
    rows, columns = (pd.Index(axis, name=name) for axis, name in zip(layers, CELL, strict=True))

    def table(cells: pd.Series) -> pd.DataFrame:
        return cells.unstack("receiver_layer").reindex(index=rows, columns=columns)

    finished_trials = best[best["status"] == "finished"].groupby(CELL)
    finished = table(finished_trials[value].count()).fillna(0).astype("int64")
    values = table(finished_trials[value].mean().astype("float64"))
    ran = table(best.groupby(CELL).size()).fillna(0) > 0
    # Kleene logic over the repeats: False if any is False, else NA if any is NA, else True.
    converged = table(finished_trials["converged"].agg(lambda repeats: repeats.all(skipna=False)))
    return Matrix(
        sender=pair[0],
        receiver=pair[1],
        factors=factors,
        value_name=value,
        values=values.astype("float64"),
        converged=converged.astype("boolean"),
        failed=ran & (finished == 0),
        finished=finished,
        sender_accuracy=_first_defined(best["sender_accuracy"]),
        receiver_accuracy=_first_defined(best["receiver_accuracy"]),
        repeats=int(best["repeat"].nunique()),
    )
