"""Resample test images or counts, and form intervals from resampled matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stitch_sweep.analysis.matrix.indices import Floats, indices
from stitch_sweep.analysis.matrix.label_thresholds import LABELS, Thresholds, classify

IMAGES = "paired bootstrap over test images"
NETWORKS = "cluster bootstrap over networks"
BINOMIAL = "binomial measurement error only"

# Largest share of resamples with an undefined order parameter. They are left out of its interval, and
# with more of them the interval would not describe the matrix.
_MOST_UNDEFINED = 0.05

# Each method of resampling draws its own stream of random numbers from the seed.
_STREAMS = {IMAGES: 1, NETWORKS: 2, BINOMIAL: 3}


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes:
        low: lower end, NaN if undefined.
        high: upper end, NaN if undefined.
        level: the share of resamples between the two, such as 0.95.
        method: `IMAGES`, `NETWORKS` or `BINOMIAL`: the resampled quantity, and therefore the source of
            variation that the interval covers.
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
        method: as in `Interval`.
        cells: values of the cells, shape (R, I J); empty if they are not kept.
    """

    means: Floats
    method: str
    cells: Floats = field(default_factory=lambda: np.empty((0, 0)))

    def intervals(self, level: float = 0.95) -> dict[str, Interval]:
        """Compute percentile intervals of the indices "triangle", "diagonal" and "order"."""
        intervals = {}
        for name, values in zip(
            ("triangle", "diagonal", "order"), indices(*self.means), strict=True
        ):
            defined = values[~np.isnan(values)]
            low, high = math.nan, math.nan
            if len(defined) and len(defined) >= (1 - _MOST_UNDEFINED) * len(values):
                low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
            intervals[name] = Interval(float(low), float(high), level, self.method)
        return intervals

    def cell_intervals(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Compute percentile intervals of the cells: the lower and the upper ends, (I J,) each."""
        low, high = np.quantile(self.cells, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def label_shares(self, thresholds: Thresholds) -> dict[str, float]:
        """Compute the share of resamples with each label; labels that don't occur are left out."""
        lower, band, upper = self.means
        labels = classify(lower, band, upper, thresholds)
        shares = {label: float(np.mean(labels == label)) for label in LABELS}
        return {label: share for label, share in shares.items() if share > 0}


def random_stream(seed: int, method: str) -> np.random.Generator:
    """Make the random generator of a method of resampling."""
    return np.random.default_rng(np.random.SeedSequence([seed, _STREAMS[method]]))


def resample_images(correct: NDArray[np.float32], resamples: int, seed: int) -> Floats:
    """Draw test sets with replacement, the same for all rows (a paired bootstrap).

    Cells that are tested on the same images vary together. Their differences are therefore known far
    better than their values.

    Args:
        correct: shape (rows, N): for each cell or network, whether it gets each of N images right; or
            the share of repeats that do.
        resamples: R, the number of test sets.
        seed: determines the test sets together with N only, so that matrices of one sweep share them.

    Returns:
        Accuracies, shape (R, rows).
    """
    images = correct.shape[1]
    draw = random_stream(seed, IMAGES)
    accuracies = np.empty((resamples, len(correct)))
    # Count how often each image is drawn: one matrix product then replaces R resampled tables.
    for start in range(0, resamples, 200):
        rows = min(200, resamples - start)
        drawn = draw.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        accuracies[start : start + rows] = counts.astype(np.float32) @ correct.T
    return accuracies / images


def resample_counts(accuracies: Floats, images: int, resamples: int, seed: int) -> Floats:
    """Draw accuracies on N other images, independently for each row: Binomial(N, p) / N.

    This is measurement error only, without another training of the stitch or another network. It
    ignores that cells are tested on the same images, so differences vary more than in a paired
    bootstrap.

    Args:
        accuracies: shape (rows,), in [0, 1]; NaN stays NaN.
        images: N.
        resamples: R, the number of draws.
        seed: any non-negative integer.

    Returns:
        Shape (R, rows).
    """
    defined = ~np.isnan(accuracies)
    drawn = np.full((resamples, len(accuracies)), np.nan)
    counts = random_stream(seed, BINOMIAL).binomial(
        images, accuracies[defined], (resamples, defined.sum())
    )
    drawn[:, defined] = counts / images
    return drawn
