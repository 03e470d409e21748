"""Smooth and non-monotone ladders are no transitions, and changes among them are found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import curve_fit

from stitch_sweep.analysis.ladder.transition import fit_ladder
from tests.support.ladders import SIZES, make_points, repeat_sizes, ring_ladder, step_ladder

LADDERS = 30
# More claims than this happen once in a thousand seeds; the seeds are fixed.
MOST = stats.binom.ppf(0.999, LADDERS, 0.05)

Curve = Callable[[np.ndarray], np.ndarray]


def hump(sizes: np.ndarray) -> np.ndarray:
    return np.exp(-(np.log(sizes / 8) ** 2) / 0.1)


def count_statuses(ladder: Callable[[int], pd.DataFrame], ladders: int = LADDERS) -> Counter[str]:
    return Counter(fit_ladder(ladder(seed), seed=seed).status for seed in range(ladders))


class TestSmoothLadders:
    @pytest.mark.parametrize(
        "curve",
        [
            lambda s: s / s,
            lambda s: (s / 4) ** -1.0,
            lambda s: 0.2 + 0.8 * (s / 4) ** -1.5,
            lambda s: s / 16,
            lambda s: np.log2(s),
        ],
        ids=["constant", "inverse", "power law", "line", "logarithm"],
    )
    def test_are_claimed_at_the_nominal_level_at_most(self, curve: Curve):
        counts = count_statuses(lambda seed: repeat_sizes(curve, noise=0.05, seed=seed))
        assert counts["transition"] <= MOST
        assert counts["no model fits"] <= stats.binom.ppf(0.999, LADDERS, 0.02)

    def test_are_so_with_networks_that_pairs_share(self):
        counts = count_statuses(
            lambda seed: ring_ladder(lambda s: 1 / s, noise=0.05, shared=0.9, seed=seed)
        )
        assert counts["transition"] <= MOST

    def test_pairs_as_independent_points_would_exceed_it(self):
        # The fault that the networks' names guard against.
        counts = count_statuses(
            lambda seed: ring_ladder(lambda s: 1 / s, noise=0.05, shared=0.9, seed=seed).drop(
                columns=["sender", "receiver"]
            )
        )
        assert LADDERS - counts["no transition"] > MOST

    def test_the_exponent_is_the_likeliest_one(self):
        sizes = np.repeat(SIZES, 2).astype(float)
        order = 0.2 + (sizes / 4) ** -1.3 + 0.02 * np.random.default_rng(0).standard_normal(16)
        fit = fit_ladder(make_points(sizes, order))
        (offset, factor, exponent), _ = curve_fit(
            lambda s, a, b, c: a + b * (s / 4) ** c, sizes, order, p0=(0.0, 1.0, -1.0)
        )
        assert fit.selected == "power"
        expected = {"offset": offset, "factor": factor, "exponent": exponent}
        assert fit.models["power"].parameters == pytest.approx(expected, rel=1e-3)
        assert fit.curve([6.0]) == pytest.approx(offset + factor * 1.5**exponent, rel=1e-4)


class TestHumps:
    def test_are_no_transition(self):
        counts = count_statuses(lambda seed: repeat_sizes(hump, noise=0.05, seed=seed))
        assert counts == {"no model fits": LADDERS}

    def test_are_seen_where_sizes_do_not_repeat(self):
        sizes = np.geomspace(4, 16, 16)

        def ladder(seed: int) -> pd.DataFrame:
            noise = 0.05 * np.random.default_rng(seed).standard_normal(16)
            return make_points(sizes, hump(sizes) + noise)

        counts = count_statuses(ladder)
        assert counts["transition"] == 0
        assert counts["no model fits"] >= 0.9 * LADDERS

    def test_the_statement_says_so(self):
        fit = fit_ladder(repeat_sizes(hump, noise=0.05))
        assert (fit.selected, fit.transition) == (None, None)
        assert fit.fit_p_value < 0.01
        assert fit.statement.startswith("No model fits these sizes (4 to 16; 16 points at 8 sizes")
        assert "only rises or only falls" in fit.statement

    def test_a_monotone_staircase_fits_no_model_and_is_not_called_a_hump(self):
        fit = fit_ladder(
            repeat_sizes(lambda s: 1.0 * (s > 4.5) + (s > 7.5) + (s > 11), each=4, noise=0.02)
        )
        assert fit.status == "no model fits"
        assert "still depend on size" in fit.statement
        assert "only rises" not in fit.statement


class TestChanges:
    def test_steps_are_found(self):
        counts = count_statuses(lambda seed: repeat_sizes(step_ladder, noise=0.05, seed=seed), 15)
        assert counts["transition"] >= 14

    def test_steps_are_found_with_networks_that_pairs_share(self):
        counts = count_statuses(
            lambda seed: ring_ladder(lambda s: 1.0 * (s < 4.3), noise=0.05, shared=0.5, seed=seed),
            15,
        )
        assert counts["transition"] >= 14

    def test_the_order_of_sizes_is_all_that_a_step_needs(self):
        # A step has no shape between its plateaus, so stretching the scale leaves it a step.
        table = repeat_sizes(step_ladder, noise=0.05)
        stretched = fit_ladder(table.assign(size=table["size"] ** 3))
        assert stretched.status == "transition"
        assert stretched.place == pytest.approx(fit_ladder(table).place ** 3)
