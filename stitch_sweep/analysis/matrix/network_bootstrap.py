"""Resample networks: intervals that cover other seeds of the same architectures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from stitch_sweep.analysis.matrix.indices import Floats
from stitch_sweep.analysis.matrix.uncertainty import NETWORKS, random_stream
from stitch_sweep.core.errors import InputError

FEWEST_NETWORKS = 3
"""Smallest number of networks on a side that can be resampled."""


def pools(pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """List the populations to draw networks from: a single one if a network has both roles, else two."""
    senders = {sender for sender, _ in pairs}
    receivers = {receiver for _, receiver in pairs}
    return (
        [sorted(senders | receivers)]
        if senders & receivers
        else [sorted(senders), sorted(receivers)]
    )


def resample_networks(pairs: Sequence[tuple[str, str]], resamples: int, seed: int) -> Floats:
    """Draw networks with replacement, and return the resulting weights of their pairs.

    Networks are drawn rather than pairs, because pairs share networks. Senders and receivers are drawn
    separately, and the weight of a pair is the number of draws of its sender times that of its receiver
    (Owen, "The pigeonhole bootstrap", 2007). If a network is sender in one pair and receiver in
    another, both sides are one population, drawn once for both roles (Snijders & Borgatti,
    "Non-parametric standard errors and tests for network statistics", 1999). The weight of a self-pair
    is the number of draws of its network.

    Args:
        pairs: P different pairs (sender, receiver).
        resamples: R, the number of draws.
        seed: any non-negative integer.

    Returns:
        Shape (R, P), each row with sum 1. A draw in which no pair occurs is repeated.

    Raises:
        InputError: fewer than three networks on a side, a pair twice, or self-pairs among other
            pairs, which are a different experiment.
    """
    if len(set(pairs)) < len(pairs):
        raise InputError("a pair occurs twice; average its repeats cell by cell first")
    self_pairs = [sender == receiver for sender, receiver in pairs]
    if any(self_pairs) and not all(self_pairs):
        raise InputError("self-pairs and pairs of two networks are different experiments")
    populations = pools(pairs)
    if min(map(len, populations)) < FEWEST_NETWORKS:
        raise InputError(
            f"a bootstrap over networks needs at least {FEWEST_NETWORKS} of them on each side, not "
            + " and ".join(str(len(pool)) for pool in populations)
        )
    draw = random_stream(seed, NETWORKS)
    sender_index, receiver_index = (
        [pool.index(pair[side]) for pair in pairs]
        for side, pool in ((0, populations[0]), (1, populations[-1]))
    )
    weight_blocks: list[Floats] = []
    while sum(map(len, weight_blocks)) < resamples:
        drawn = [
            draw.multinomial(len(pool), np.full(len(pool), 1 / len(pool)), resamples)
            for pool in populations
        ]
        weights = drawn[0][:, sender_index] * (
            1.0 if all(self_pairs) else drawn[-1][:, receiver_index]
        )
        total = weights.sum(axis=1)
        weight_blocks.append(weights[total > 0] / total[total > 0, None])
    return np.concatenate(weight_blocks)[:resamples]


def widening(pairs: Sequence[tuple[str, str]], weights: Floats, level: float) -> float:
    """Compute the factor for deviations from the mean that corrects for few networks.

    A draw of n networks varies less than n networks do. It varies much less where pairs of a network
    with itself don't exist, because a network that is drawn twice then contributes no pair with
    itself. For additive effects of senders and receivers, the true spread of the mean is known, and the
    spread of the draws follows from their weights. The factor is the ratio of the two spreads, times
    the quantile of t with n - 1 degrees of freedom over the normal quantile, where n is the smaller
    number of networks.

    Args:
        pairs: as for `resample_networks`.
        weights: its result, shape (R, P).
        level: of the interval, such as 0.95.

    Returns:
        Above 1: 3.6 with 3 networks that are both senders and receivers, 1.4 with 8 of them.
    """
    populations = pools(pairs)
    self_pairs = all(sender == receiver for sender, receiver in pairs)
    roles = [(0,)] if self_pairs else [(0, 1)] if len(populations) == 1 else [(0,), (1,)]
    true = drawn = 0.0
    for pool, sides in zip(populations, roles, strict=True):
        uses = np.array(
            [[sum(pair[side] == name for side in sides) for name in pool] for pair in pairs]
        )
        shares = uses.mean(axis=0)
        true += float(np.sum(shares**2))
        drawn += float(np.mean(np.sum((weights @ uses - shares) ** 2, axis=1)))
    # The draws have the spread of n effects around their own mean, which is (n - 1) / n of the spread
    # around the true mean.
    networks = min(map(len, populations))
    quantile = (1 + level) / 2
    small_sample = float(stats.t.ppf(quantile, networks - 1) / stats.norm.ppf(quantile))
    return math.sqrt(true / drawn) * small_sample
