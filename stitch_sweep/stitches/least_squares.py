"""The exact optimum of an affine stitch under squared error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.stitches.base import MAX_INPUTS, AffineStitch
from stitch_sweep.stitches.closed_forms import RIDGE_BELOW, AffineMap
from stitch_sweep.stitches.moments import Moments

CHUNK_VALUES = 2**24
"""Values of rows that are held at once (128 MiB in float64), or one image's where that is more."""


def has_optimum(stitch: nn.Module) -> bool:
    """Whether `LeastSquares(stitch).optimum()` is there: known from shapes alone, on any device."""
    return isinstance(stitch, AffineStitch) and stitch.has_optimum and stitch.inputs <= MAX_INPUTS


class LeastSquares:
    """Normal equations of an affine stitch, accumulated in float64, one pass, bounded memory.

    What is kept are the second moments: D^2 + D C numbers, however many images there are.

    Args:
        stitch: an affine stitch; its weights play no part.

    Example:
        >>> fit = LeastSquares(stitch)
        >>> for x, y in batches:
        ...     fit.add(x, y)
        >>> fit.optimum()
    """

    def __init__(self, stitch: AffineStitch) -> None:
        self._stitch = stitch
        self._moments: Moments | None = None
        self._values = 0

    @property
    def moments(self) -> Moments:
        """Of everything that was added.

        Raises:
            ValueError: nothing was.
        """
        if self._moments is None:
            raise ValueError("no batch was added")
        return self._moments

    @torch.no_grad()
    def add(self, x: Tensor, y: Tensor) -> None:
        """Add a batch: x [B, *sender] with what it should become, y [B, *receiver]."""
        self._moments = _add_moments(self._moments, self._stitch, x, y)
        self._values += y.numel()

    def solution(self) -> AffineMap:
        """The best map the stitch can be, regularised only as far as its weights' type needs it."""
        double = self._stitch.matrix().dtype == torch.float64
        return self._stitch.solve(self.moments, 0.0 if double else RIDGE_BELOW)

    def optimum(self) -> float:
        """The smallest mean squared error, per value of the expected representation.

        Raises:
            ValueError: this stitch has no closed form, see `has_optimum`.
        """
        if not has_optimum(self._stitch):
            raise ValueError(f"{type(self._stitch).__name__} has no closed form for these shapes")
        return self._stitch.solve(self.moments, 0.0).error / self._values


def _add_moments(moments: Moments | None, stitch: AffineStitch, x: Tensor, y: Tensor) -> Moments:
    """The moments with a batch x [B, *sender], y [B, *receiver] taken in."""
    step = max(1, CHUNK_VALUES // (stitch.positions * stitch.inputs))
    for part, wanted in zip(x.split(step), y.split(step), strict=True):
        found = _moments_of(stitch, part, wanted)
        if moments is None:
            moments = found
        else:
            moments.merge(found)
    assert moments is not None
    return moments


def _moments_of(stitch: AffineStitch, x: Tensor, y: Tensor) -> Moments:
    """Of one batch: x [B, *sender], y [B, *receiver]."""
    y = y.double()
    rows, values = stitch.rows(x.double()), stitch.target_values(y)
    y_mean = values.mean(dim=0)
    centred = values - y_mean
    copies = stitch.copies()
    if copies is None:
        x_mean = rows.mean(dim=0)
        rows = rows - x_mean
        weighted, targets = rows, centred
    else:
        copies = copies.to(rows).repeat(len(x))[:, None]
        x_mean = (copies * rows).sum(dim=0) / len(values)
        rows = rows - x_mean
        weighted, targets = copies * rows, stitch.target_rows(y) - copies * y_mean
    return Moments(
        count=len(values),
        x_mean=x_mean,
        y_mean=y_mean,
        xx=rows.T @ weighted,
        xy=rows.T @ targets,
        yy=torch.linalg.vecdot(centred, centred, dim=0),
    )
