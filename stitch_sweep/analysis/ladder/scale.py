"""The logarithmic scale of a ladder's sizes."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

EXPONENT_STEP = 1 / 16
"""Distance of the exponents that are tried. Between two of them, a power law differs from the nearer one
by at most 0.006 of its range (root mean square over 12 sizes up to a ratio of 64)."""

EXPONENTS = (0.0, *(k * EXPONENT_STEP for k in range(-64, 33) if k))
"""Exponents c of the power laws a + b size^c that are no transition, -4 to 2; 0, the first, is the
logarithm."""


class SizeScale:
    """The sizes of a ladder by their logarithm: 0 is the smallest, 1 the largest.

    Args:
        sizes: sizes of the points, in any order.

    Attributes:
        sizes: the different sizes, ascending.
    """

    def __init__(self, sizes: np.ndarray) -> None:
        self.sizes = np.unique(sizes)

    @property
    def smallest(self) -> float:
        """The smallest size; NaN without sizes."""
        return float(self.sizes[0]) if len(self.sizes) else math.nan

    @property
    def largest(self) -> float:
        """The largest size; NaN without sizes."""
        return float(self.sizes[-1]) if len(self.sizes) else math.nan

    @cached_property
    def span(self) -> float:
        """Logarithm of the ratio of the largest size to the smallest."""
        return float(np.log(self.sizes[-1] / self.sizes[0]))

    @property
    def rungs(self) -> np.ndarray:
        """The different sizes on the scale, ascending."""
        return self.relative(self.sizes)

    def relative(self, sizes: np.ndarray) -> np.ndarray:
        """Convert sizes to positions on the scale."""
        return np.log(sizes / self.sizes[0]) / self.span

    def size_at(self, t: float) -> float:
        """Convert a position on the scale to a size."""
        return float(self.sizes[0] * math.exp(t * self.span))

    def lines(self, sizes: np.ndarray) -> np.ndarray:
        """Compute the regressors (L, n) of the null models: lines in size^c for each of `EXPONENTS`."""
        ratios = sizes / self.sizes[0]
        return np.stack([np.log(ratios) / self.span if c == 0 else ratios**c for c in EXPONENTS])
