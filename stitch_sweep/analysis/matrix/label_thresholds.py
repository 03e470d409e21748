"""The label of a stitching matrix (triangle, diagonal, ...) and the thresholds between labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stitch_sweep.analysis.matrix.indices import Floats, indices

LABELS = ("triangle", "diagonal", "full", "none", "upper", "gradient", "unclear")


@dataclass(frozen=True)
class Thresholds:
    """The thresholds between labels, in units of rescaled accuracy.

    `docs/explanation/analysis.md` names the published matrices they were derived from, and their accuracy
    on the other published matrices.

    Attributes:
        high: lowest mean of a region that performs.
        contrast: smallest difference between the good and the poor regions of a triangle, diagonal
            or gradient.
        slack: largest difference between two regions that count as equal.
        nothing: highest mean of a region of `none`.
        steepest: highest order parameter of a triangle; that of a gradient is above it.
    """

    high: float = 0.75
    contrast: float = 0.2
    slack: float = 0.1
    nothing: float = 0.1
    steepest: float = 1.3


THRESHOLDS = Thresholds()


def classify(
    lower: ArrayLike, band: ArrayLike, upper: ArrayLike, thresholds: Thresholds = THRESHOLDS
) -> NDArray[np.str_]:
    """Label region means L, D, U; arrays element by element.

    The label is the first of these that fits, with t the thresholds:

    - `none`: L, D and U <= t.nothing.
    - `full`: L, D and U >= t.high, and no two further apart than t.slack.
    - `gradient`: L - U >= t.contrast and the order parameter is defined and above t.steepest; or
      the same with L and U swapped.
    - `triangle`: D >= t.high, L - U >= t.contrast, D - L <= t.slack, and the order parameter is
      defined and at most t.steepest.
    - `upper`: the same with L and U swapped.
    - `diagonal`: D - max(L, U) >= t.contrast.
    - `unclear`: everything else, NaN included.

    Returns:
        Labels of the shape of the arguments. Swapping L and U swaps `triangle` and `upper` and
        nothing else.
    """
    low, middle, up = (np.asarray(x, dtype=np.float64) for x in (lower, band, upper))
    highest = np.maximum(np.maximum(low, middle), up)
    lowest = np.minimum(np.minimum(low, middle), up)
    t = thresholds

    def gradient(good: Floats, bad: Floats) -> NDArray[np.bool_]:
        order = indices(good, middle, bad)[2]
        return (good - bad >= t.contrast) & (order > t.steepest)

    def triangle(good: Floats, bad: Floats) -> NDArray[np.bool_]:
        # With an undefined order parameter it is no triangle: D is not above the bad side.
        order = indices(good, middle, bad)[2]
        performs = (middle >= t.high) & (middle - good <= t.slack)
        return performs & (good - bad >= t.contrast) & (order <= t.steepest)

    return np.select(
        [
            highest <= t.nothing,
            (lowest >= t.high) & (highest - lowest <= t.slack),
            gradient(low, up) | gradient(up, low),
            triangle(low, up),
            triangle(up, low),
            middle - np.maximum(low, up) >= t.contrast,
        ],
        ["none", "full", "gradient", "triangle", "upper", "diagonal"],
        "unclear",
    )
