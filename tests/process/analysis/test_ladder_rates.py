"""Rates of false positives and coverage of intervals on ladders, by long simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from stitch_sweep.analysis.ladder.transition import fit_ladder
from tests.support.ladders import (
    SIZES,
    count_false_positives,
    count_intervals,
    gradual_change,
    make_points,
    ring_ladder,
    sharp_change,
)


class TestRates:
    """A correct rate fails these once in a thousand seeds; the seeds are fixed."""

    @pytest.mark.long
    def test_false_positives_of_many(self):
        count = 1000
        assert count_false_positives(count, np.repeat(SIZES, 2)) <= stats.binom.ppf(
            0.999, count, 0.05
        )

    @pytest.mark.long
    @pytest.mark.parametrize("change", [sharp_change, gradual_change])
    def test_the_places_of_many_are_in_their_intervals(self, change):
        claimed, inside = count_intervals(change, 300)
        assert inside >= stats.binom.ppf(0.001, claimed, 0.9)
        assert claimed > 0

    @pytest.mark.long
    def test_places_are_in_their_intervals_where_pairs_share_networks(self):
        # With the likeliest correlation of such pairs, 60 of 75 intervals held the place.
        count, inside = 100, 0
        random = np.random.default_rng(0)
        for k in range(count):
            place = math.exp(random.uniform(math.log(2), math.log(8)))

            def change(size, place=place):
                return 1 / (1 + (size / place) ** 4)

            fit = fit_ladder(ring_ladder(change, noise=0.02, shared=0.5, seed=k), seed=k)
            assert fit.transition is not None
            inside += fit.transition.low <= place <= fit.transition.high
        assert inside >= stats.binom.ppf(0.001, count, 0.9)

    @pytest.mark.long
    def test_pairs_that_share_networks_are_no_evidence_of_their_own(self):
        # One value per size, seen through both directions of three pairs: 30 make_points, 5 values.
        names = [
            [(f"{s}{a}", f"{s}{b}") for a, b in itertools.permutations("abc", 2)] for s in range(5)
        ]
        sizes = np.repeat(SIZES[:5], 6).astype(float)
        senders, receivers = zip(*itertools.chain(*names), strict=True)
        random = np.random.default_rng(0)
        count, linked, alone = 300, 0, 0
        for k in range(count):
            of_network = random.standard_normal((5, 3))
            pairs = [
                of_network[:, a] + of_network[:, b] for a, b in itertools.permutations(range(3), 2)
            ]
            order = 0.1 * np.stack(pairs, axis=1).ravel() + 0.02 * random.standard_normal(30)
            table = make_points(sizes, order)
            alone += fit_ladder(table, seed=k).status == "transition"
            table = table.assign(sender=senders, receiver=receivers)
            linked += fit_ladder(table, seed=k).status == "transition"
        assert linked <= stats.binom.ppf(0.999, count, 0.05)
        # What it would be if names were not looked at: the fault this guards against.
        assert alone > 2 * 0.05 * count
