"""Rank correlation with an exact p-value for ladders, with or without ties."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
from scipy import stats

MOST_VALUES = 10
"""Largest number of different sizes with an exact p-value; each further size doubles the time."""


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Compute Kendall's tau-b, and its two-sided p-value under all n! orders of `y`.

    SciPy has no such test for ladders: `scipy.stats.kendalltau` is exact without ties only, and a ladder
    with several seeds has equal sizes; `scipy.stats.permutation_test` refuses a size with one point, and
    lists the orders, of which a ladder of 20 points at 4 sizes has 10^10.

    This function therefore counts the orders. It distributes the values of y in ascending order
    over the values of x. Later steps depend only on the remaining places at each value of x, so
    states with equal remainders are merged. With more than `MOST_VALUES` different values of x, the
    p-value is the normal approximation.

    Args:
        x: shape (n,).
        y: shape (n,).

    Returns:
        tau-b, NaN where all of x or all of y are equal, and the p-value.
    """
    places = tuple(np.unique(x, return_counts=True)[1].tolist())
    if len(places) > MOST_VALUES:
        approximate = stats.kendalltau(x, y, method="asymptotic")
        return float(approximate.statistic), float(approximate.pvalue)
    scores = _count_orders(places, np.unique(y, return_counts=True)[1].tolist())
    x_signs, y_signs = (np.sign(values[:, None] - values) for values in (x, y))
    observed = abs(int((x_signs * y_signs).sum())) // 2
    extreme = sum(orders for score, orders in scores.items() if abs(score) >= observed)
    return float(stats.kendalltau(x, y).statistic), extreme / sum(scores.values())


def _count_orders(places: tuple[int, ...], ties: list[int]) -> Counter[int]:
    """Count the orders of y by their score, the number of concordant minus discordant pairs.

    Args:
        places: number of points at each value of x, ascending in x.
        ties: number of points at each value of y, ascending in y.
    """
    states: dict[tuple[int, ...], Counter[int]] = {places: Counter({0: 1})}
    for equal in ties:
        following: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for remaining, scores in states.items():
            for used in _ways_to_take(remaining, equal):
                remainder = tuple(a - b for a, b in zip(remaining, used, strict=True))
                ways = math.prod(map(math.comb, remaining, used))
                # The remaining points have a larger y: they are concordant where x is larger too.
                gain = sum(
                    count * (sum(remainder[k + 1 :]) - sum(remainder[:k]))
                    for k, count in enumerate(used)
                    if count
                )
                counts = following[remainder]
                for score, orders in scores.items():
                    counts[score + gain] += orders * ways
        states = following
    (scores,) = states.values()
    return scores


def _ways_to_take(groups: tuple[int, ...], count: int) -> Iterator[tuple[int, ...]]:
    """Iterate over all ways to take `count` members from groups of the given sizes."""
    if not groups:
        if count == 0:
            yield ()
        return
    for first in range(max(0, count - sum(groups[1:])), min(groups[0], count) + 1):
        for later_counts in _ways_to_take(groups[1:], count - first):
            yield (first, *later_counts)
