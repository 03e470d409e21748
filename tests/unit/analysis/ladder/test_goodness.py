"""Goodness of fit of a ladder's models."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stitch_sweep.analysis.ladder.covariance import Errors
from stitch_sweep.analysis.ladder.goodness import (
    lack_of_fit,
    monotone_lack_of_fit,
    remaining_pattern,
)

SIZES = np.repeat(np.geomspace(4, 16, 7), 3)
INDEPENDENT = [Errors(np.eye(21), np.log(SIZES)[None], (SIZES > 8.5)[None].astype(float))]


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(21)


class TestLackOfFit:
    def test_around_a_constant_it_is_the_analysis_of_variance(self):
        y = draw(0)
        p = lack_of_fit(y, SIZES, INDEPENDENT, np.full(21, y.mean()), 1)
        assert p == pytest.approx(stats.f_oneway(*y.reshape(7, 3)).pvalue)

    def test_around_a_line_it_is_the_difference_to_the_analysis_of_variance(self):
        y, x = draw(1), np.log(SIZES)
        line = np.polyval(np.polyfit(x, y, 1), x)
        around_line = np.square(y - line).sum()
        around_means = sum(np.square(group - group.mean()).sum() for group in y.reshape(7, 3))
        ratio = (around_line - around_means) / 5 / (around_means / 14)
        assert lack_of_fit(y, SIZES, INDEPENDENT, line, 2) == pytest.approx(
            stats.f.sf(ratio, 5, 14)
        )

    def test_needs_repeated_sizes_and_fewer_parameters_than_sizes(self):
        single = np.geomspace(4, 16, 21)
        assert lack_of_fit(draw(0), single, INDEPENDENT, single, 2) is None
        assert lack_of_fit(draw(0), SIZES, INDEPENDENT, SIZES, 7) is None
        assert lack_of_fit(SIZES**2, SIZES, INDEPENDENT, SIZES, 2) is None


class TestMonotoneLackOfFit:
    @pytest.mark.parametrize("sign", [1, -1])
    def test_tells_a_hump_from_a_monotone_curve(self, sign):
        t = np.log(SIZES / 8)
        noise = 0.05 * draw(0)
        assert monotone_lack_of_fit(sign * np.exp(-4 * t**2) + noise, SIZES, INDEPENDENT) < 1e-6
        assert monotone_lack_of_fit(sign * np.arctan(9 * t) + noise, SIZES, INDEPENDENT) > 0.05


class TestRemainingPattern:
    def p_values(self, y: np.ndarray, fitted: np.ndarray, count: int) -> np.ndarray:
        return np.array(
            [
                remaining_pattern(
                    y + 0.1 * draw(k), SIZES, INDEPENDENT, fitted, np.random.default_rng(k)
                )
                for k in range(count)
            ]
        )

    def test_p_values_around_the_true_curve_are_uniform(self):
        p = self.p_values(np.log(SIZES), np.log(SIZES), 100)
        assert stats.kstest(p, "uniform").pvalue > 0.001

    @pytest.mark.parametrize("pattern", [SIZES > 8.5, (SIZES > 5) & (SIZES < 9)])
    def test_a_change_or_a_bump_beside_the_curve_is_found(self, pattern):
        assert self.p_values(np.log(SIZES) + pattern, np.log(SIZES), 10).max() < 0.01

    def test_no_residuals_leave_no_pattern(self):
        y = np.log(SIZES)
        assert remaining_pattern(y, SIZES, INDEPENDENT, y, np.random.default_rng(0)) == 1
