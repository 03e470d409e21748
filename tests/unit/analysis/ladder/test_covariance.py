"""Errors of the points: weights and dependence."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stitch_sweep.analysis.ladder.covariance import Errors, random_residuals
from stitch_sweep.analysis.ladder.points import (
    check_points,
    merge_shared,
    shared_networks,
)
from stitch_sweep.analysis.ladder.transition import fit_ladder
from tests.support.ladders import (
    SIZES,
    make_points,
    repeat_sizes,
    step_ladder,
)


class TestErrors:
    """Of the points: what weighs how much, and what is not independent."""

    def drawn(self, n: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        random = np.random.default_rng(0)
        root = random.standard_normal((n, n))
        return root @ root.T + np.eye(n), random.standard_normal(n), random.standard_normal(n)

    def test_likelihood_and_coefficients_are_those_of_a_multivariate_normal(self):
        covariance, x, y = self.drawn()
        of = Errors(covariance, x[None], x[None])
        a, b = of.coefficients(y, x)
        squares = of.residuals(of.whiten(y)[None], of.lines).item()
        of_scale = stats.multivariate_normal(a + b * x, covariance * squares / len(y))
        # What is left out is the same for all models.
        left_out = -len(y) / 2 * (1 + math.log(2 * math.pi))
        assert of.log_likelihood(np.array(squares)) + left_out == pytest.approx(of_scale.logpdf(y))
        residual = y - a - b * x
        normal = np.linalg.solve(covariance, np.column_stack([np.ones_like(x), x]))
        assert residual @ normal == pytest.approx(0, abs=1e-12)

    def test_turning_keeps_the_fit_and_the_size_of_the_residuals(self):
        _, x, y = self.drawn()
        of = Errors(np.eye(6), x[None], x[None])
        basis = np.vstack([of.constant, of.lines])
        noise = np.random.default_rng(1).standard_normal((50, 6))
        ladders = random_residuals(y @ basis.T @ basis, y, basis, noise)
        assert ladders @ basis.T == pytest.approx(np.tile(basis @ y, (50, 1)))
        squares = of.residuals(ladders, of.lines)
        assert squares == pytest.approx(np.tile(of.residuals(y[None], of.lines), (50, 1)))

    def test_points_of_large_error_weigh_less(self):
        random = np.random.default_rng(0)
        sizes = np.repeat(SIZES, 2).astype(float)
        error = np.where(np.arange(16) % 2, 0.5, 0.01)
        order = np.log2(sizes) + error * random.standard_normal(16)
        unweighted = fit_ladder(make_points(sizes, order))
        weighted = fit_ladder(make_points(sizes, order, low=order - error, high=order + error))
        width = weighted.slope.high - weighted.slope.low
        assert width < unweighted.slope.high - unweighted.slope.low
        assert weighted.slope.low < 1 < weighted.slope.high

    @pytest.mark.parametrize("scale", [1e-3, 1.0])
    def test_equal_errors_change_nothing_however_large(self, scale):
        table = repeat_sizes(step_ladder, noise=0.1)
        known = table.assign(low=table["order"] - scale, high=table["order"] + scale)
        assert fit_ladder(known).to_dict() == fit_ladder(table).to_dict()

    def test_shared_networks(self):
        table = pd.DataFrame({"sender": ["a", "b", "a", "c"], "receiver": ["b", "a", "c", "c"]})
        expected = [
            [1, 1, 0.5, 0],
            [1, 1, 0.5, 0],
            [0.5, 0.5, 1, math.sqrt(0.5)],
            [0, 0, math.sqrt(0.5), 1],
        ]
        assert shared_networks(table) == pytest.approx(np.array(expected))

    def test_linked_pairs_of_one_size_make_one_point(self):
        table = make_points(
            [4, 4, 4, 4, 8],
            [0.0, 1.0, 2.0, 7.0, 5.0],
            sender=["a", "d", "b", "x", "a"],
            receiver=["b", "c", "c", "y", "d"],
        )
        merged = merge_shared(check_points(table, "order"))
        assert merged["size"].tolist() == [4, 4, 8]
        assert merged["y"].tolist() == [1, 7, 5]
