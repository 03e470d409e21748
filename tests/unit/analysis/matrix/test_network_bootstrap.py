"""Resampling of networks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stitch_sweep.analysis.matrix.network_bootstrap import resample_networks, widening
from stitch_sweep.core.errors import InputError
from tests.support.matrices import (
    ordered_pairs,
)


@given(st.integers(3, 6), st.integers(3, 6), st.integers(0, 2**32))
@settings(max_examples=20)
def test_two_populations_are_drawn_apart(senders, receivers, seed):
    pairs = [(f"s{i}", f"r{j}") for i in range(senders) for j in range(receivers)]
    weights = resample_networks(pairs, 50, seed).reshape(50, senders, receivers)
    assert weights.sum(axis=(1, 2)) == pytest.approx(1)
    # A product of what its sender and its receiver were drawn.
    outer = weights.sum(axis=2)[:, :, None] * weights.sum(axis=1)[:, None, :]
    np.testing.assert_allclose(weights, outer, atol=1e-12)
    drawn = weights.sum(axis=2) * senders
    np.testing.assert_allclose(drawn, drawn.round(), atol=1e-9)


def test_a_network_that_was_not_drawn_takes_all_its_pairs_away_in_both_roles():
    pairs = ordered_pairs("abcd")
    weights = resample_networks(pairs, 400, seed=0)
    assert weights.sum(axis=1) == pytest.approx(1)
    for name in "abcd":
        as_sender = weights[:, [p[0] == name for p in pairs]].sum(axis=1)
        as_receiver = weights[:, [p[1] == name for p in pairs]].sum(axis=1)
        assert (as_sender > 0).tolist() == (as_receiver > 0).tolist()
        assert (as_sender == 0).any()


def test_self_pairs_count_as_often_as_their_network():
    weights = resample_networks([("a", "a"), ("b", "b"), ("c", "c")], 500, seed=1)
    np.testing.assert_allclose(weights * 3, (weights * 3).round(), atol=1e-9)
    assert weights.mean(axis=0) == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        (ordered_pairs("ab"), "at least 3"),
        ([(s, r) for s in "abc" for r in "xy"], "at least 3"),
        ([("a", "a"), *ordered_pairs("abc")], "different experiments"),
        ([("a", "b"), ("a", "b"), ("a", "c")], "twice"),
    ],
)
def test_what_is_no_population_of_networks_is_refused(pairs, reason):
    with pytest.raises(InputError, match=reason):
        resample_networks(pairs, 10, seed=0)


@pytest.mark.parametrize("count", [3, 5])
def test_widening_makes_the_spread_of_draws_that_of_the_networks(count):
    """For effects that add up the standard error of the mean is known: it is found on average."""
    names = [f"n{k}" for k in range(count)]
    pairs = list(itertools.permutations(names, 2))
    weights = resample_networks(pairs, 4000, seed=0)
    draw = np.random.default_rng(1)
    spreads = []
    for _ in range(3000):
        effects = dict(zip(names, draw.normal(size=count), strict=True))
        spreads.append(np.var(weights @ [effects[s] + effects[r] for s, r in pairs]))
    quantiles = stats.t.ppf(0.975, count - 1) / stats.norm.ppf(0.975)
    found = np.mean(spreads) * (widening(pairs, weights, 0.95) / quantiles) ** 2
    # The mean over all pairs is twice the mean effect.
    assert found == pytest.approx(4 / count, rel=0.06)
