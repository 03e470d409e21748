"""Second moments of what an affine stitch gets and should give, in one pass and bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from stitch_sweep.stitches.base import AffineStitch

CHUNK_VALUES = 2**24
"""Values of rows that are held at once (128 MiB in float64), or one image's where that is more."""


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

    @classmethod
    def of(cls, stitch: AffineStitch, x: Tensor, y: Tensor) -> Moments:
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
        return cls(
            count=len(values),
            x_mean=x_mean,
            y_mean=y_mean,
            xx=rows.T @ weighted,
            xy=rows.T @ targets,
            yy=centred.square().sum(dim=0),
        )

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


def add_moments(moments: Moments | None, stitch: AffineStitch, x: Tensor, y: Tensor) -> Moments:
    """The moments with a batch x [B, *sender], y [B, *receiver] taken in."""
    step = max(1, CHUNK_VALUES // (stitch.positions * stitch.inputs))
    for part, wanted in zip(x.split(step), y.split(step), strict=True):
        found = Moments.of(stitch, part, wanted)
        if moments is None:
            moments = found
        else:
            moments.merge(found)
    assert moments is not None
    return moments
