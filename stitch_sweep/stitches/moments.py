"""Second moments of the inputs and targets of an affine stitch, in one pass and bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RegressionMoments:
    """Centered second moments of rows r and targets t over all positions, in float64.

    Each batch is centered by its mean, and batches are merged exactly (Chan, Golub and LeVeque 1983), so
    a large mean costs no precision. This class differs from `losses.moments.Moments`: it counts the
    copies that upsampling makes of a row, and it stores only the diagonal of yy.

    Attributes:
        count: N, the number of output positions.
        x_mean: mean of r, [D].
        y_mean: mean of t, [C].
        xx: sum of (r - mean)(r - mean)^T, [D, D].
        xy: sum of (r - mean)(t - mean)^T, [D, C].
        yy: sum of (t - mean)^2, [C].
    """

    count: int
    x_mean: Tensor
    y_mean: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    def merge(self, other: RegressionMoments) -> None:
        """Add the moments of further positions."""
        n, m = self.count, other.count
        dx, dy = other.x_mean - self.x_mean, other.y_mean - self.y_mean
        between = n * m / (n + m)
        self.xx += other.xx + between * torch.outer(dx, dx)
        self.xy += other.xy + between * torch.outer(dx, dy)
        self.yy += other.yy + between * dy.square()
        self.x_mean += dx * (m / (n + m))
        self.y_mean += dy * (m / (n + m))
        self.count = n + m

    def x_squares(self) -> Tensor:
        """Return the diagonal of xx, [D]; 0 where it is only the rounding error of the mean."""
        return _without_rounding(self.xx.diagonal(), self.count, self.x_mean)

    def y_squares(self) -> Tensor:
        """Return yy, [C]; 0 where it is only the rounding error of the mean."""
        return _without_rounding(self.yy, self.count, self.y_mean)

    def error(self, weight: Tensor) -> Tensor:
        """Return the sum of |W r + b - t|^2 for W [C, D] and the best b for it."""
        return self.yy.sum() - 2 * (weight.T * self.xy).sum() + ((weight @ self.xx) * weight).sum()


def rounding_error(count: int, mean: Tensor) -> Tensor:
    """Return the sum of squares of `count` equal values after subtracting their rounded mean."""
    return count * (64 * torch.finfo(torch.float64).eps * mean).square()


def _without_rounding(squares: Tensor, count: int, mean: Tensor) -> Tensor:
    return torch.where(squares > rounding_error(count, mean), squares, 0.0)
