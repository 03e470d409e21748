"""Rank correlation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stitch_sweep.analysis.ladder.ranks import rank_correlation


class TestRankCorrelation:
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=2, max_size=6))
    @settings(max_examples=40)
    def test_p_value_is_that_of_all_orders(self, pairs):
        x, y = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))

        def score(y: np.ndarray) -> float:
            return float((np.sign(x[:, None] - x) * np.sign(y[:, None] - y)).sum())

        as_extreme = [
            abs(score(np.array(order))) >= abs(score(y)) for order in itertools.permutations(y)
        ]
        assert rank_correlation(x, y)[1] == pytest.approx(np.mean(as_extreme))

    @pytest.mark.parametrize("counts", [(2, 2, 2, 2), (3, 3, 2)])
    def test_p_value_is_that_of_scipys_permutation_test(self, counts):
        """SciPy lists the divisions of y among the sizes, and needs two points at each."""
        x = np.repeat(np.arange(len(counts)), counts).astype(float)
        random = np.random.default_rng(0)

        def score(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
            pairs = itertools.combinations(samples, 2)
            return sum(
                np.sign(b[..., None, :] - a[..., :, None]).sum(axis=(-2, -1)) for a, b in pairs
            )

        for y in (random.standard_normal(len(x)), random.integers(0, 3, len(x)).astype(float)):
            samples = [y[x == value] for value in np.unique(x)]
            # Doubling the smaller tail needs a symmetric distribution, so the score is made absolute.
            oracle = stats.permutation_test(
                samples,
                lambda *groups, axis=-1: np.abs(score(*groups, axis=axis)),
                permutation_type="independent",
                n_resamples=np.inf,
                alternative="greater",
                vectorized=True,
            )
            assert rank_correlation(x, y)[1] == pytest.approx(oracle.pvalue, rel=1e-12)

    def test_without_equal_values_it_is_scipys(self):
        x, y = np.random.default_rng(0).standard_normal((2, 9))
        oracle = stats.kendalltau(x, y, method="exact")
        assert rank_correlation(x, y) == pytest.approx((oracle.statistic, oracle.pvalue))

    def test_many_values_take_no_longer(self):
        """Counting the orders of 40 different values would not end."""
        x, y = np.random.default_rng(0).standard_normal((2, 40))
        tau, p = rank_correlation(x, y)
        exact = stats.kendalltau(x, y, method="exact")
        assert tau == pytest.approx(exact.statistic)
        assert p == pytest.approx(exact.pvalue, abs=0.02)
