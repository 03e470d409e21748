"""How sure a matrix's shape is: resampling test images, networks or counts, and a null hypothesis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stitch_sweep.analysis.matrix.order import LABELS, Floats, Thresholds, classify, indices
from stitch_sweep.core.errors import InputError

IMAGES = "paired bootstrap over test images"
NETWORKS = "cluster bootstrap over networks"
BINOMIAL = "binomial measurement error only"

# An interval of the order parameter leaves the resamples out in which it is undefined; more than
# this share of them would make it one of something else.
_MOST_UNDEFINED = 0.05

FEWEST_NETWORKS = 3
"""With fewer networks on a side there is nothing to draw from."""

# The three ways of resampling each draw a stream of numbers of their own from one seed.
_STREAMS = {IMAGES: 1, NETWORKS: 2, BINOMIAL: 3}


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes:
        low: lower end, NaN if undefined.
        high: upper end, NaN if undefined.
        level: the share of resamples between the two, such as 0.95.
        method: `IMAGES`, `NETWORKS` or `BINOMIAL`: what was resampled, so what the interval is
            about.
    """

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True, eq=False)
class Resamples:
    """Region means of R resampled matrices.

    Attributes:
        means: L, D and U, shape (3, R).
        method: what was resampled.
    """

    means: Floats
    method: str

    def intervals(self, level: float = 0.95) -> dict[str, Interval]:
        """Percentile intervals of the indices "triangle", "diagonal" and "order"."""
        found = {}
        for name, values in zip(
            ("triangle", "diagonal", "order"), indices(*self.means), strict=True
        ):
            known = values[~np.isnan(values)]
            low, high = math.nan, math.nan
            if len(known) and len(known) >= (1 - _MOST_UNDEFINED) * len(values):
                low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
            found[name] = Interval(float(low), float(high), level, self.method)
        return found

    def label_shares(self, thresholds: Thresholds) -> dict[str, float]:
        """The share of resamples that each label has; labels that don't occur are left out."""
        lower, band, upper = self.means
        labels = classify(lower, band, upper, thresholds)
        shares = {label: float(np.mean(labels == label)) for label in LABELS}
        return {label: share for label, share in shares.items() if share > 0}


def _generator(seed: int, method: str) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, _STREAMS[method]]))


def resample_images(correct: NDArray[np.float32], resamples: int, seed: int) -> Floats:
    """Accuracies on test sets drawn with replacement, the same ones for all rows (a paired bootstrap).

    Cells that look at the same images go up and down together, so their differences are known far
    better than each of them is.

    Args:
        correct: shape (rows, N): for each cell or network, whether it has each of N images right;
            or the share of repeats that have.
        resamples: R, how often.
        seed: which test sets; a function of it and of N alone, so that matrices of one sweep share
            them.

    Returns:
        Shape (R, rows).
    """
    images = correct.shape[1]
    draw = _generator(seed, IMAGES)
    found = np.empty((resamples, len(correct)))
    # Counts of how often each image was drawn: one matrix product instead of R copies of the table.
    for start in range(0, resamples, 200):
        rows = min(200, resamples - start)
        drawn = draw.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        found[start : start + rows] = counts.astype(np.float32) @ correct.T
    return found / images


def resample_counts(accuracies: Floats, images: int, resamples: int, seed: int) -> Floats:
    """Accuracies as they might have come out on other N images, each on its own: Binomial(N, p) / N.

    Measurement error only: neither another training of the stitch nor another network is in it.
    What cells share by looking at the same images is not known here, so differences come out wider
    than a paired bootstrap would have them.

    Args:
        accuracies: shape (rows,), in [0, 1]; NaN stays NaN.
        images: N.
        resamples: R, how often.
        seed: any non-negative integer.

    Returns:
        Shape (R, rows).
    """
    known = ~np.isnan(accuracies)
    found = np.full((resamples, len(accuracies)), np.nan)
    drawn = _generator(seed, BINOMIAL).binomial(images, accuracies[known], (resamples, known.sum()))
    found[:, known] = drawn / images
    return found


def pools(pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The populations that networks are drawn from: one if some network has both roles, else two."""
    senders = {sender for sender, _ in pairs}
    receivers = {receiver for _, receiver in pairs}
    return (
        [sorted(senders | receivers)]
        if senders & receivers
        else [sorted(senders), sorted(receivers)]
    )


def resample_networks(pairs: Sequence[tuple[str, str]], resamples: int, seed: int) -> Floats:
    """Weights of pairs when networks are drawn with replacement, since pairs share networks.

    Senders and receivers are drawn apart, and a pair counts as often as its sender times as often
    as its receiver was drawn (Owen, "The pigeonhole bootstrap", 2007). Where a network is sender in
    one pair and receiver in another, both sides are one population: it is drawn once, for both
    roles (Snijders & Borgatti, "Non-parametric standard errors and tests for network statistics",
    1999). Of self-pairs, each counts as often as its network was drawn.

    Args:
        pairs: P pairs (sender, receiver), no two the same.
        resamples: R, how often.
        seed: any non-negative integer.

    Returns:
        Shape (R, P), each row with sum 1. A draw in which no pair occurs is drawn again.

    Raises:
        InputError: fewer than three networks on a side, a pair twice, or self-pairs among other
            pairs, which are another experiment.
    """
    if len(set(pairs)) < len(pairs):
        raise InputError("a pair occurs twice; cells of repeats are averaged before")
    selves = [sender == receiver for sender, receiver in pairs]
    if any(selves) and not all(selves):
        raise InputError("self-pairs and pairs of two networks are different experiments")
    populations = pools(pairs)
    if min(map(len, populations)) < FEWEST_NETWORKS:
        raise InputError(
            f"a bootstrap over networks needs at least {FEWEST_NETWORKS} of them on each side; found "
            + " and ".join(str(len(pool)) for pool in populations)
        )
    draw = _generator(seed, NETWORKS)
    s, r = (
        [pool.index(pair[side]) for pair in pairs]
        for side, pool in ((0, populations[0]), (1, populations[-1]))
    )
    kept: list[Floats] = []
    while sum(map(len, kept)) < resamples:
        drawn = [
            draw.multinomial(len(pool), np.full(len(pool), 1 / len(pool)), resamples)
            for pool in populations
        ]
        weights = drawn[0][:, s] * (1.0 if all(selves) else drawn[-1][:, r])
        total = weights.sum(axis=1)
        kept.append(weights[total > 0] / total[total > 0, None])
    return np.concatenate(kept)[:resamples]


def widening(pairs: Sequence[tuple[str, str]], weights: Floats, level: float) -> float:
    """How much too narrow drawing few networks is: a factor for deviations from the mean.

    A draw of n networks varies less than n networks themselves do, and much less where pairs of a
    network with itself don't exist, so that what was drawn twice drops out. For effects of senders
    and receivers that add up, the true spread of the mean is known, and that of the draws follows
    from their weights; the factor is the ratio of the two, times t with n - 1 degrees of freedom
    over the normal quantile, n being the smaller number of networks.

    Args:
        pairs: as for `resample_networks`.
        weights: what it returned, shape (R, P).
        level: of the interval, such as 0.95.

    Returns:
        Above 1. With 3 networks as both senders and receivers 3.6, with 8 1.4.
    """
    from scipy import stats  # takes half a second, and every sweep imports this package

    populations = pools(pairs)
    selves = all(sender == receiver for sender, receiver in pairs)
    roles = [(0,)] if selves else [(0, 1)] if len(populations) == 1 else [(0,), (1,)]
    true = drawn = 0.0
    for pool, sides in zip(populations, roles, strict=True):
        takes_part = np.array(
            [[sum(pair[side] == name for side in sides) for name in pool] for pair in pairs]
        )
        shares = takes_part.mean(axis=0)
        true += float(np.sum(shares**2))
        drawn += float(np.mean(np.sum((weights @ takes_part - shares) ** 2, axis=1)))
    # The spread of n effects around their own mean is (n - 1) / n of the spread around the true
    # one; the draws are of the former.
    networks = min(map(len, populations))
    quantile = (1 + level) / 2
    few = float(stats.t.ppf(quantile, networks - 1) / stats.norm.ppf(quantile))
    return math.sqrt(true / drawn) * few


def row_and_column_test(values: pd.DataFrame, where: pd.DataFrame) -> float | None:
    """Test whether the region matters beyond which sender layer and which receiver layer it is.

    Null hypothesis: value = row effect + column effect + noise. The test asks whether two further
    numbers, one for being in the lower and one for being in the upper region, explain more of what
    the effects leave over than chance would: F = (explained / 2) / (rest / degrees of freedom).

    Residuals of an additive fit are correlated, so shuffling them or flipping their signs is only
    nearly right. Rotating them within the space they live in, of (I - 1)(J - 1) dimensions, is
    exact for normal noise of one size (Langsrud, "Rotation tests", 2005), and the p-value over all
    rotations has the closed form that is used here, that of the F distribution. Nothing is drawn.

    It speaks about the accuracy scale. On a scale that may be bent freely the hypothesis could
    never be
    rejected: a perfect triangle is a step of u - v, so row plus column effect. A gradient that
    saturates is not additive either and is often rejected, so a small p-value alone is no triangle.

    Args:
        values: accuracies, rescaled or not (nothing changes), shape (I, J), NaN where a cell has
            none.
        where: the cells' regions, as `regions` gives them.

    Returns:
        The p-value; None where too few cells are left to tell.
    """
    from scipy import stats  # takes half a second, and every sweep imports this package

    known = values.notna().to_numpy() & where.notna().to_numpy()
    rows, columns = np.nonzero(known)
    y = values.to_numpy(dtype=np.float64)[known]
    if not len(y):
        return None
    names = where.to_numpy()[known]
    effects = np.concatenate(
        [rows[:, None] == np.unique(rows), columns[:, None] == np.unique(columns)], axis=1
    ).astype(np.float64)
    # What no row and column effects can reach is left after projecting onto their span, whose
    # orthonormal basis is small. That of the rest would take cells x cells numbers.
    left, sizes, _ = np.linalg.svd(effects, full_matrices=False)
    span = left[:, sizes > 1e-9]
    centred = y - y.mean()
    residual = centred - span @ (span.T @ centred)
    regions = np.stack([names == "lower", names == "upper"], axis=1).astype(np.float64)
    basis, lengths, _ = np.linalg.svd(regions - span @ (span.T @ regions), full_matrices=False)
    basis = basis[:, lengths > 1e-9]
    tested = basis.shape[1]
    freedom = len(y) - span.shape[1] - tested
    if tested == 0 or freedom < 1:
        return None
    total = float(residual @ residual)
    if total <= 1e-24 * float(y @ y):
        return 1.0  # rows and columns explain everything
    explained = float(np.sum((basis.T @ residual) ** 2))
    unexplained = max(total - explained, 1e-300)
    return float(stats.f.sf((explained / tested) / (unexplained / freedom), tested, freedom))
