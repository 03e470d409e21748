"""Rank correlations between measures over the cells of a matrix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from stitch_sweep.analysis.comparison.losses import cell_means, identity_columns
from stitch_sweep.analysis.results import PAIR
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.measures import COLUMNS, SIMILARITIES

FEWEST_CELLS = 3
"""Under this number of cells a rank correlation is NaN."""


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Compute Spearman's rank correlation, in [-1, 1], over places where both values are finite.

    NaN under three such places, or where either is constant.

    Args:
        first: shape (N,).
        second: shape (N,).
    """
    is_finite = np.isfinite(first) & np.isfinite(second)
    first, second = first[is_finite], second[is_finite]
    if is_finite.sum() < FEWEST_CELLS or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(spearmanr(first, second).statistic)


def measure_correlations(
    table: pd.DataFrame, quantities: Sequence[str] | None = None
) -> pd.DataFrame:
    """Compute rank correlations between measures over the cells of each matrix.

    Measures whose lower values are better count with the opposite sign, so that 1 always means that two
    measures order the cells alike. Repeats of a cell are averaged first. There is no p-value: the cells
    of a matrix share two networks and their neighbors' layers, so they are not an independent sample.

    Args:
        table: the result of `loss_table`.
        quantities: columns to compare; if not given, the calibrated accuracy and every measure.

    Returns:
        A row per matrix (sender, receiver, factors, loss) and pair of quantities `first` and `second`:
        `spearman`, and `n`, the cells in which both are defined. NaN under three cells, or where one
        of the two is constant.

    Raises:
        InputError: a quantity is not a column.
    """
    compared = list(quantities or ["accuracy_calibrated", *(q for q in SIMILARITIES if q in table)])
    if wrong := [name for name in compared if name not in table]:
        raise InputError(
            *(f"there is no quantity {n!r}; {nearest(n, map(str, table.columns))}" for n in wrong)
        )
    names = identity_columns(table)
    means = cell_means(table, [*PAIR, *names], "loss", compared)
    keys = [*PAIR, *names, "loss"]
    signs = {name: COLUMNS[name].sign if name in COLUMNS else 1 for name in compared}
    rows = []
    for key, matrix in means.groupby(keys, dropna=False):
        values = {name: signs[name] * matrix[name].to_numpy(dtype="float64") for name in compared}
        for first, second in itertools.combinations(compared, 2):
            defined = np.isfinite(values[first]) & np.isfinite(values[second])
            rows.append(
                {
                    **dict(zip(keys, key, strict=True)),
                    "first": first,
                    "second": second,
                    "spearman": spearman(values[first], values[second]),
                    "n": int(defined.sum()),
                }
            )
    return pd.DataFrame(rows, columns=[*keys, "first", "second", "spearman", "n"])
