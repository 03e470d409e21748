"""Rank correlation with a p-value that is exact for ladders, equal values among them or not."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

MOST_VALUES = 10
"""Up to so many different values orders are counted; each more of them doubles the time."""


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Kendall's tau-b, and its two-sided p-value under all n! orders of `y`.

    `scipy.stats.kendalltau` is exact without equal values only, and a ladder with several seeds
    has equal sizes. The orders are counted, not listed: the values of y are dealt in ascending
    order, and what has been dealt so far matters only by how many are left at each value of x.
    With more than `MOST_VALUES` different values of x the p-value is the normal approximation.

    Args:
        x: shape (n,).
        y: shape (n,).

    Returns:
        tau-b, NaN where all of x or all of y are equal, and the p-value.
    """
    from scipy import stats  # takes half a second, and every sweep imports this package

    left = tuple(np.unique(x, return_counts=True)[1].tolist())
    if len(left) > MOST_VALUES:
        found = stats.kendalltau(x, y, method="asymptotic")
        return float(found.statistic), float(found.pvalue)
    # How many are left at each value of x -> score (concordant - discordant pairs) -> orders.
    reached: dict[tuple[int, ...], Counter[int]] = {left: Counter({0: 1})}
    for equal in np.unique(y, return_counts=True)[1].tolist():
        further: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for left, scores in reached.items():
            for taken in _choices(left, equal):
                then = tuple(a - b for a, b in zip(left, taken, strict=True))
                ways = math.prod(map(math.comb, left, taken))
                # All that is left has a larger y: concordant where x is larger too.
                gain = sum(
                    count * (sum(then[k + 1 :]) - sum(then[:k]))
                    for k, count in enumerate(taken)
                    if count
                )
                into = further[then]
                for score, orders in scores.items():
                    into[score + gain] += orders * ways
        reached = further
    (scores,) = reached.values()
    signs = (np.sign(values[:, None] - values) for values in (x, y))
    observed = abs(int((next(signs) * next(signs)).sum())) // 2
    extreme = sum(orders for score, orders in scores.items() if abs(score) >= observed)
    return float(stats.kendalltau(x, y).statistic), extreme / sum(scores.values())


def _choices(left: tuple[int, ...], count: int) -> Iterator[tuple[int, ...]]:
    """All ways to take `count` of groups that have `left` each."""
    if not left:
        if count == 0:
            yield ()
        return
    for first in range(max(0, count - sum(left[1:])), min(left[0], count) + 1):
        for others in _choices(left[1:], count - first):
            yield (first, *others)
