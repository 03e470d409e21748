"""First and second moments of two matrices with the same rows: all that most measures need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def noise_floor(dtype: torch.dtype) -> float:
    """The share of a mean square below which a variance is rounding, for values of `dtype`.

    Moments are float64, so eps of that at least; values that were float32 before carry errors of a
    few eps of their own, and a stitch from 8 to 16 channels has rank 16 by these alone.
    """
    return max(torch.finfo(torch.float64).eps, (8 * torch.finfo(dtype).eps) ** 2)


@dataclass(frozen=True)
class Moments:
    """Moments of rows x [n, p] and y [n, q], in float64.

    Attributes:
        count: n.
        mean_x: [p].
        mean_y: [q].
        xx: sum over rows of (x - mean)(x - mean)^T, [p, p].
        yy: [q, q].
        xy: [p, q].
        noise: see `noise_floor`.

    Memory: 8 (p^2 + q^2 + p q) bytes. Differentiable in x and y.
    """

    count: int
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor
    noise: float

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Moments:
        """Of rows x [n, p] and y [n, q], n >= 1."""
        noise = max(noise_floor(x.dtype), noise_floor(y.dtype))
        x, y = x.double(), y.double()
        mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
        x, y = x - mean_x, y - mean_y
        return cls(len(x), mean_x, mean_y, x.T @ x, y.T @ y, x.T @ y, noise)

    def merged(self, other: Moments) -> Moments:
        """Of both sets of rows together (Chan, Golub and LeVeque 1983): nothing cancels."""
        count = self.count + other.count
        by_x, by_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        weight = self.count * other.count / count
        return Moments(
            count,
            self.mean_x + by_x * (other.count / count),
            self.mean_y + by_y * (other.count / count),
            self.xx + other.xx + weight * torch.outer(by_x, by_x),
            self.yy + other.yy + weight * torch.outer(by_y, by_y),
            self.xy + other.xy + weight * torch.outer(by_x, by_y),
            max(self.noise, other.noise),
        )

    @property
    def finite(self) -> bool:
        """Whether no row held an infinity or NaN, as after a training that diverged."""
        return all(bool(m.isfinite().all()) for m in (self.xx, self.yy, self.xy))

    def deviations_x(self) -> Tensor:
        """Root of the sum of squared deviations of each x channel, [p]; 0 for a constant one."""
        return _deviations(self.xx, self.mean_x, self.count, self.noise)

    def deviations_y(self) -> Tensor:
        """The same of y, [q]."""
        return _deviations(self.yy, self.mean_y, self.count, self.noise)


def _deviations(square: Tensor, mean: Tensor, count: int, noise: float) -> Tensor:
    squares = square.diagonal()
    # The root of 0 has no derivative: constant channels must not come near it. NaN must.
    varies = ~(squares <= noise * (squares + count * mean.square()))
    return torch.where(varies, torch.where(varies, squares, 1.0).sqrt(), 0.0)


def over(values: Tensor, by: Tensor) -> Tensor:
    """Quotients, and 0, without gradient, where `by` is 0."""
    some = by != 0
    return torch.where(some, values / torch.where(some, by, 1.0), 0.0)
