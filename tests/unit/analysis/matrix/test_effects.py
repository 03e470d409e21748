"""The test against row and column effects."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stitch_sweep.analysis.matrix.effects import row_and_column_test
from stitch_sweep.analysis.matrix.order_parameters import regions
from tests.support.matrices import (
    DIAGONAL,
    TRIANGLE,
    noise,
    step,
)


def nested_models(values: pd.DataFrame, where: pd.DataFrame) -> float:
    """The same test written out as two least-squares fits, one within the other."""
    rows, columns = values.shape
    y = values.to_numpy().ravel()
    small = np.zeros((y.size, rows + columns))
    for n, (i, j) in enumerate(itertools.product(range(rows), range(columns))):
        small[n, i] = small[n, rows + j] = 1
    names = where.to_numpy().ravel()
    large = np.column_stack([small, names == "lower", names == "upper"]).astype(float)
    known = ~np.isnan(y)
    fits = []
    for design in (small[known], large[known]):
        solution, _, rank, _ = np.linalg.lstsq(design, y[known], rcond=None)
        fits.append((float(np.sum((y[known] - design @ solution) ** 2)), int(rank)))
    (rest, few), (less, many) = fits
    freedom = int(known.sum()) - many
    f = ((rest - less) / (many - few)) / (less / freedom)
    return float(stats.f.sf(f, many - few, freedom))


@given(st.integers(4, 9), st.integers(4, 9), st.integers(0, 2**32), st.integers(0, 3))
@settings(max_examples=40)
def test_null_against_two_nested_least_squares_fits(rows, columns, seed, missing):
    values = noise(rows, columns, seed)
    for cell in np.random.default_rng(seed).choice(values.size, missing, replace=False):
        values.iloc[divmod(int(cell), columns)] = math.nan
    where = regions(values)
    assert row_and_column_test(values, where) == pytest.approx(nested_models(values, where))


@given(st.integers(0, 2**32), st.floats(0.01, 100), st.floats(-10, 10))
@settings(max_examples=40)
def test_null_is_blind_to_row_and_column_effects_and_to_units(seed, scale, shift):
    values = noise(5, 7, seed)
    draw = np.random.default_rng(seed + 1)
    moved = scale * (values + draw.normal(size=(5, 1)) + draw.normal(size=(1, 7))) + shift
    where = regions(values)
    assert row_and_column_test(moved, where) == pytest.approx(
        row_and_column_test(values, where), rel=1e-6, abs=1e-9
    )


def test_null_is_the_limit_of_rotating_residuals():
    values = noise(5, 6, 8) + step(TRIANGLE, 5, 6)
    where = regions(values)
    rows, columns = values.shape
    centering = np.kron(
        np.eye(rows) - 1 / rows, np.eye(columns) - 1 / columns
    )  # takes row and column means away
    basis = np.linalg.svd(centering)[0][:, : (rows - 1) * (columns - 1)]
    names = where.to_numpy().ravel()
    inside = basis.T @ np.stack([names == "lower", names == "upper"], axis=1).astype(float)
    tested = np.linalg.qr(inside)[0]
    z = basis.T @ values.to_numpy().ravel()

    def share(vectors: np.ndarray) -> np.ndarray:
        return np.sum((vectors @ tested) ** 2, axis=-1) / np.sum(vectors**2, axis=-1)

    # A randomly rotated vector points in a direction like that of independent normal numbers.
    rotated = np.random.default_rng(0).normal(size=(40_000, len(z)))
    p = float(np.mean(share(rotated) >= share(z)))
    exact = row_and_column_test(values, where)
    assert exact is not None
    assert p == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 40_000))


def test_under_the_null_p_values_are_uniform():
    """Row and column effects and normal noise: exactly as many small p-values as there should be."""
    draw = np.random.default_rng(0)
    found = []
    for rows, columns in ((4, 4), (5, 5), (5, 7)):
        where = regions(noise(rows, columns, 0))
        for _ in range(400):
            effects = draw.uniform(0, 1, (rows, 1)) + draw.uniform(0, 1, (1, columns))
            values = pd.DataFrame(effects + draw.normal(0, 0.05, (rows, columns)))
            found.append(row_and_column_test(values, where))
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_a_clear_step_is_found():
    for levels in (TRIANGLE, DIAGONAL, {"lower": 0.3, "band": 0.9, "upper": 0.9}):
        values = step(levels) + noise(5, 5, 1, 0.03)
        assert row_and_column_test(values, regions(values)) < 0.05


def test_perfect_row_and_column_effects_leave_nothing_to_explain():
    values = pd.DataFrame(np.add.outer(np.linspace(0, 0.4, 5), np.linspace(0.3, 0, 5)))
    assert row_and_column_test(values, regions(values)) == 1
    assert row_and_column_test(values * 0 + 0.3, regions(values)) == 1


@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (1, 5)])
def test_too_few_cells_have_no_p_value(shape):
    values = noise(*shape, seed=0)
    assert row_and_column_test(values, regions(values)) is None
