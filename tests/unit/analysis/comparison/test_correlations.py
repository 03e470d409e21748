"""Rank correlations between measures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from stitch_sweep.analysis.comparison.correlations import measure_correlations, spearman
from stitch_sweep.analysis.comparison.losses import loss_table
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.measures import SIMILARITIES
from tests.support.comparisons import ALIKE, table, trial


def test_rank_correlations_are_scipys():
    numbers = np.random.default_rng(0)
    cells = list(itertools.product(range(3), range(4)))
    values = {name: numbers.uniform(size=len(cells)) for name in (*ALIKE, "accuracy_calibrated")}
    values["val_cca"][3] = math.nan
    values["val_pwcca"][:] = 0.5
    rows = [
        trial(*cell, **{name: x[k] for name, x in values.items()}) for k, cell in enumerate(cells)
    ]
    found = measure_correlations(loss_table(table(*rows))).set_index(["first", "second"])
    assert len(found) == math.comb(len(values), 2)
    signs = {name: measure.sign for name, measure in SIMILARITIES.items()}
    for (first, second), row in found.iterrows():
        x, y = (signs.get(name, 1) * values[name] for name in (first, second))
        known = np.isfinite(x) & np.isfinite(y)
        assert row["n"] == known.sum()
        if "val_pwcca" in (first, second):
            assert math.isnan(row["spearman"])
        else:
            assert row["spearman"] == pytest.approx(spearmanr(x[known], y[known]).statistic)


def test_a_distance_and_a_similarity_that_agree_correlate_with_1():
    rows = [trial(i, val_mse=x, val_cka=1 - x**2) for i, x in enumerate([0.1, 0.5, 0.7])]
    found = measure_correlations(loss_table(table(*rows)), ["val_mse", "val_cka"])
    assert found[["spearman", "n"]].to_numpy().tolist() == [[1, 3]]
    with pytest.raises(InputError, match="val_cka"):
        measure_correlations(loss_table(table(*rows)), ["val_mse", "val_ck"])


def test_two_cells_have_no_rank_correlation():
    assert math.isnan(spearman(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.0, 3.0])))
