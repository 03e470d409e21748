"""The exact optimum of an affine stitch under squared error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.stitches.base import MAX_INPUTS, AffineStitch
from stitch_sweep.stitches.closed_forms import RIDGE_BELOW, AffineMap
from stitch_sweep.stitches.moments import Moments, add_moments


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
        self._moments = add_moments(self._moments, self._stitch, x, y)
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
