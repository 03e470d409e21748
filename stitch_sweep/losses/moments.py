"""First and second moments of two matrices with the same rows: the input of most measures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Moments:
    """Moments of rows x [n, p] and y [n, q], in float64.

    Differentiable in x and y. Memory: 8 (p^2 + q^2 + p q) bytes.

    Attributes:
        count: n.
        mean_x: mean of x, [p].
        mean_y: mean of y, [q].
        xx: sum over rows of (x - mean)(x - mean)^T, [p, p].
        yy: sum over rows of (y - mean)(y - mean)^T, [q, q].
        xy: sum over rows of (x - mean)(y - mean)^T, [p, q].
        eps: precision of the rows, the coarser one of x and y.
    """

    count: int
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor
    eps: float

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Moments:
        """Compute the moments of rows x [n, p] and y [n, q], n >= 1."""
        eps = max(torch.finfo(x.dtype).eps, torch.finfo(y.dtype).eps)
        x, y = x.double(), y.double()
        mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
        x, y = x - mean_x, y - mean_y
        return cls(len(x), mean_x, mean_y, x.T @ x, y.T @ y, x.T @ y, eps)

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together, without cancellation.

        Source: Chan, Golub and LeVeque 1983.
        """
        count = self.count + other.count
        shift_x, shift_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        weight = self.count * other.count / count
        return Moments(
            count,
            self.mean_x + shift_x * (other.count / count),
            self.mean_y + shift_y * (other.count / count),
            self.xx + other.xx + weight * torch.outer(shift_x, shift_x),
            self.yy + other.yy + weight * torch.outer(shift_y, shift_y),
            self.xy + other.xy + weight * torch.outer(shift_x, shift_y),
            max(self.eps, other.eps),
        )

    @property
    def noise(self) -> float:
        """Share of the largest eigenvalue of a moment below which an eigenvalue is rounding error.

        Moments are float64, so it is at least eps of float64. Values that were float32 have errors of a
        few eps of float32. Without this limit, these errors would give the output of a stitch from 8 to
        16 channels the rank 16.
        """
        return max(_EPS, (8 * self.eps) ** 2)

    @property
    def constant_below(self) -> float:
        """Share of a channel's mean square below which its variance is rounding error.

        Rows are centered before they are squared, so the error is that of the values and of their mean:
        a few eps of the rows' precision, and several more eps of float64 for a long sum.
        """
        return max((8 * self.eps) ** 2, (64 * _EPS) ** 2)

    @property
    def finite(self) -> bool:
        """Whether all rows were finite; after a diverged training they aren't."""
        return all(bool(m.isfinite().all()) for m in (self.xx, self.yy, self.xy))

    def deviations_x(self) -> Tensor:
        """Return the root of each x channel's sum of squared deviations, [p]; 0 if constant."""
        return _deviations(self.xx, self.mean_x, self.count, self.constant_below)

    def deviations_y(self) -> Tensor:
        """Return the root of each y channel's sum of squared deviations, [q]; 0 if constant."""
        return _deviations(self.yy, self.mean_y, self.count, self.constant_below)


def moments_of_rows(chunks: Iterable[Tensor]) -> Moments:
    """Accumulate the moments of rows x [n, p] that come in chunks; y is empty, [n, 0].

    Raises:
        ValueError: there are no chunks.
    """
    moments: Moments | None = None
    for rows in chunks:
        added = Moments.of(rows, rows[:, :0])
        moments = added if moments is None else moments.merged(added)
    if moments is None:
        raise ValueError("there are no inputs")
    return moments


def _deviations(square: Tensor, mean: Tensor, count: int, share: float) -> Tensor:
    squares = square.diagonal()
    # The root has no derivative at 0, so it isn't applied to constant channels; NaN must pass through it.
    varies = ~(squares <= share * (squares + count * mean.square()))
    return torch.where(varies, torch.where(varies, squares, 1.0).sqrt(), 0.0)


def divide_or_zero(values: Tensor, divisors: Tensor) -> Tensor:
    """Divide element by element; 0, without gradient, where the divisor is 0."""
    nonzero = divisors != 0
    return torch.where(nonzero, values / torch.where(nonzero, divisors, 1.0), 0.0)
