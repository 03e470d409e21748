"""The triangle index, the diagonal index and the order parameter of three region means."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_DROP = 0.05
"""Smallest D - U for which the order parameter, which divides by it, is defined."""

Floats = NDArray[np.float64]


def indices(lower: ArrayLike, band: ArrayLike, upper: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Compute triangle index L - U, diagonal index D - max(L, U), order parameter (L - U) / (D - U)."""
    low, middle, up = (np.asarray(x, dtype=np.float64) for x in (lower, band, upper))
    drop = middle - up
    order = (low - up) / np.where(drop >= LEAST_DROP, drop, np.nan)
    return low - up, middle - np.maximum(low, up), order
