"""The exact optimum of an affine stitch under squared error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.stitches.base import MAX_INPUTS, AffineStitch
from stitch_sweep.stitches.closed_forms import RIDGE_BELOW, AffineMap
from stitch_sweep.stitches.moments import RegressionMoments

CHUNK_VALUES = 2**24
"""Number of row values in memory at a time (128 MiB in float64), but at least the values of one image."""


def has_optimum(stitch: nn.Module) -> bool:
    """Return whether `LeastSquares(stitch).optimum()` exists; only shapes matter, on any device."""
    return isinstance(stitch, AffineStitch) and stitch.has_optimum and stitch.inputs <= MAX_INPUTS


class LeastSquares:
    """Normal equations of an affine stitch, accumulated in float64, in one pass and bounded memory.

    The equations consist of the second moments: D^2 + D C numbers, for any number of images.

    Args:
        stitch: an affine stitch; its weights have no effect.

    Example:
        >>> fit = LeastSquares(stitch)
        >>> for x, y in batches:
        ...     fit.add(x, y)
        >>> fit.optimum()
    """

    def __init__(self, stitch: AffineStitch) -> None:
        self._stitch = stitch
        self._moments: RegressionMoments | None = None
        self._values = 0

    @property
    def moments(self) -> RegressionMoments:
        """Moments of all batches so far.

        Raises:
            ValueError: no batch was added.
        """
        if self._moments is None:
            raise ValueError("no batch was added")
        return self._moments

    @torch.no_grad()
    def add(self, x: Tensor, y: Tensor) -> None:
        """Add a batch: inputs x [B, *sender] and targets y [B, *receiver]."""
        self._moments = _add_moments(self._moments, self._stitch, x, y)
        self._values += y.numel()

    def solution(self) -> AffineMap:
        """Return the best map that the stitch can represent, with a ridge if its dtype needs it."""
        double = self._stitch.matrix().dtype == torch.float64
        return self._stitch.solve(self.moments, 0.0 if double else RIDGE_BELOW)

    def optimum(self) -> float:
        """Return the smallest mean squared error, per value of the expected representation.

        Raises:
            ValueError: the stitch has no closed form; see `has_optimum`.
        """
        if not has_optimum(self._stitch):
            raise ValueError(f"{type(self._stitch).__name__} has no closed form for these shapes")
        return self._stitch.solve(self.moments, 0.0).error / self._values


def _add_moments(
    moments: RegressionMoments | None, stitch: AffineStitch, x: Tensor, y: Tensor
) -> RegressionMoments:
    """Add a batch x [B, *sender], y [B, *receiver] to moments, a bounded number of images at a time."""
    step = max(1, CHUNK_VALUES // (stitch.positions * stitch.inputs))
    for inputs, targets in zip(x.split(step), y.split(step), strict=True):
        added = _moments_of(stitch, inputs, targets)
        if moments is None:
            moments = added
        else:
            moments.merge(added)
    assert moments is not None
    return moments


def _moments_of(stitch: AffineStitch, x: Tensor, y: Tensor) -> RegressionMoments:
    """Compute the moments of one batch: x [B, *sender], y [B, *receiver]."""
    y = y.double()
    rows, values = stitch.rows(x.double()), stitch.target_values(y)
    y_mean = values.mean(dim=0)
    centered = values - y_mean
    copies = stitch.copies()
    if copies is None:
        x_mean = rows.mean(dim=0)
        rows = rows - x_mean
        weighted, targets = rows, centered
    else:
        copies = copies.to(rows).repeat(len(x))[:, None]
        x_mean = (copies * rows).sum(dim=0) / len(values)
        rows = rows - x_mean
        weighted, targets = copies * rows, stitch.target_rows(y) - copies * y_mean
    return RegressionMoments(
        count=len(values),
        x_mean=x_mean,
        y_mean=y_mean,
        xx=rows.T @ weighted,
        xy=rows.T @ targets,
        yy=torch.linalg.vecdot(centered, centered, dim=0),
    )
