"""Ladders with a known course, and rates of errors on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from stitch_sweep.analysis.ladder.transition import fit_ladder

SIZES = np.array([4, 5, 6, 7, 8, 10, 12, 16])


def make_points(sizes: Any, order: Any, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"size": sizes, "order": order, **columns})


def repeat_sizes(change: Any, each: int = 2, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """`each` points at every size, of independent pairs."""
    sizes = np.repeat(SIZES, each).astype(float)
    random = np.random.default_rng(seed)
    return make_points(sizes, change(sizes) + noise * random.standard_normal(len(sizes)))


def step_ladder(sizes: np.ndarray) -> np.ndarray:
    return np.where(sizes < 7, 1.0, 0.2)


def logistic_ladder(sizes: np.ndarray) -> np.ndarray:
    """From 1 to 0.2 around 8, nine tenths and one tenth of the change at 8 sqrt(2) and its inverse."""
    return 0.2 + 0.8 / (1 + np.exp(2 * math.log(9) * np.log(sizes / 8) / math.log(2)))


def count_false_positives(count: int, sizes: np.ndarray, **columns: Any) -> int:
    random = np.random.default_rng(count)
    claimed = 0
    for k in range(count):
        order = 0.1 * random.standard_normal(len(sizes))
        claimed += fit_ladder(make_points(sizes, order, **columns), seed=k).status == "transition"
    return claimed


def count_intervals(change: Any, count: int) -> tuple[int, int]:
    """How many transitions were claimed, and of them how many intervals hold the place.

    The noise is small enough for most to be found: those that are found by luck are no fair sample.
    """
    random = np.random.default_rng(count)
    claimed, inside = 0, 0
    for k in range(count):
        place = math.exp(random.uniform(math.log(6), math.log(12)))
        table = repeat_sizes(lambda s, place=place: change(s, place), noise=0.1, seed=k)
        fit = fit_ladder(table, seed=k)
        if fit.transition is not None:
            claimed += 1
            inside += fit.transition.low <= place <= fit.transition.high
    return claimed, inside


def sharp_change(sizes: np.ndarray, place: float) -> np.ndarray:
    return np.where(sizes < place, 1.0, 0.0)


def gradual_change(sizes: np.ndarray, place: float) -> np.ndarray:
    return 1 / (1 + np.exp(2 * math.log(9) * np.log(sizes / place) / math.log(1.8)))


def ring_ladder(
    change: Any, noise: float, shared: float, seed: int, sizes: int = 12, largest: float = 16.0
) -> pd.DataFrame:
    """Three networks of each size in a ring of pairs; they cause a share of the noise's variance."""
    random = np.random.default_rng(seed)
    rows = []
    for size in np.geomspace(1, largest, sizes):
        own = random.standard_normal(3)
        for a, b in ((0, 1), (1, 2), (2, 0)):
            error = math.sqrt(shared / 2) * (own[a] + own[b])
            error += math.sqrt(1 - shared) * random.standard_normal()
            rows.append((size, f"{size}.{a}", f"{size}.{b}", change(size) + noise * error))
    return pd.DataFrame(rows, columns=["size", "sender", "receiver", "order"])
