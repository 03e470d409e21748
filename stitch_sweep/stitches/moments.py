"""Second moments of what an affine stitch gets and should give, in one pass and bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """Centred second moments of rows r and wanted outputs t over all positions, in float64.

    Means are taken off batch by batch and the batches merged exactly (Chan, Golub and LeVeque 1983),
    so that a large mean costs no digits.

    Attributes:
        count: N, output positions.
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

    def merge(self, other: Moments) -> None:
        """Take in the moments of further positions."""
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
        """The diagonal of xx, 0 where it is nothing but the rounding of the mean, [D]."""
        return _without_rounding(self.xx.diagonal(), self.count, self.x_mean)

    def y_squares(self) -> Tensor:
        """`yy`, 0 where it is nothing but the rounding of the mean, [C]."""
        return _without_rounding(self.yy, self.count, self.y_mean)

    def error(self, weight: Tensor) -> Tensor:
        """Sum of |W r + b - t|^2 for W [C, D] and the b that suits it best."""
        return self.yy.sum() - 2 * (weight.T * self.xy).sum() + ((weight @ self.xx) * weight).sum()


def rounding(count: int, mean: Tensor) -> Tensor:
    """What `count` equal values' squares add up to, after a rounded mean was taken off them."""
    return count * (64 * torch.finfo(torch.float64).eps * mean).square()


def _without_rounding(squares: Tensor, count: int, mean: Tensor) -> Tensor:
    return torch.where(squares > rounding(count, mean), squares, 0.0)
