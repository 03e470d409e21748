"""Inverse roots and singular vectors whose gradients stay finite at repeated and zero values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CLOSEST = 1e-4
"""Of a kept eigenvalue: a smaller gap between it and a dropped one counts as this."""
_BLUR = 1e-5
"""Gaps between squared correlations well below this don't make a gradient any larger."""


class _InverseRoot(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, matrix: Tensor, tolerance: float, share: float, ridge: float
    ) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        values = values.clamp(min=0)
        kept = values > tolerance * values[-1]
        if share < 1:
            above = values.flip(0).cumsum(0).flip(0) - values
            kept &= above < share * values.sum()
        used = kept | (ridge > 0)
        inverse = torch.where(used, values + ridge, torch.inf).rsqrt()
        ctx.save_for_backward(values, vectors, inverse)
        rank = kept.sum()
        ctx.mark_non_differentiable(rank)
        return (vectors * inverse) @ vectors.T, rank

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
        values, vectors, inverse = ctx.saved_tensors
        a, b = inverse[:, None], inverse
        # (1/sqrt(l) - 1/sqrt(m)) / (l - m) without its gap, for two that are used.
        both = -(a * b).square() / torch.where(a + b > 0, a + b, 1.0)
        # One is dropped: its side of the difference is 0, and the gap must stay.
        larger = torch.maximum(values[:, None], values)
        gap = torch.maximum((values[:, None] - values).abs(), _CLOSEST * larger)
        one = -torch.maximum(a, b) / torch.where(gap > 0, gap, 1.0)
        one = torch.where((a > 0) ^ (b > 0), -one, 0.0)
        quotients = torch.where((a > 0) & (b > 0), both, one)
        inner = quotients * (vectors.T @ gradient @ vectors)
        result = vectors @ inner @ vectors.T
        return (result + result.T) / 2, None, None, None


def inverse_root(
    matrix: Tensor, *, tolerance: float, share: float = 1.0, ridge: float = 0.0
) -> tuple[Tensor, int]:
    """(P A P + r I)^(-1/2) on the directions that are kept, 0 on the others.

    Kept are eigenvalues above `tolerance` times the largest, and of these the fewest whose sum is at
    least `share` of all. With a ridge every direction is used. Which ones are kept counts as fixed
    under the gradient, which is that of a spectral function (Daleckii and Krein): it holds no
    difference of two used eigenvalues, so repeated ones do no harm. The gap between a kept and a
    dropped one, where `share` cuts, remains; below 1e-4 of the eigenvalue it counts as that.

    Args:
        matrix: symmetric and positive semi-definite, [p, p].
        tolerance: relative to the largest eigenvalue.
        share: of the sum of eigenvalues, in (0, 1].
        ridge: r, added to every eigenvalue.

    Returns:
        [p, p], and how many directions were kept (the rank, when share is 1).
    """
    root, rank = _InverseRoot.apply(matrix, tolerance, share, ridge)
    return root, int(rank)


class _SingularVectors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = matrix.shape
        # All right vectors, those of the null space too: the gradient of the others needs them.
        left, singular, right = torch.linalg.svd(matrix, full_matrices=rows < columns)
        left = left[:, : len(singular)]
        ctx.save_for_backward(left, singular, right)
        return singular, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_singular: Tensor, by_right: Tensor) -> Tensor:
        left, singular, right = ctx.saved_tensors
        squares = singular.new_zeros(len(right))
        squares[: len(singular)] = singular.square()
        gaps = squares - squares[:, None]
        inner = gaps / (gaps.square() + _BLUR**2) * (right @ by_right.T)
        result = (left * by_singular) @ right[: len(singular)]
        # Of A^T A, whose eigenvectors they are, and from there of A.
        return result + (left * singular) @ (inner + inner.T)[: len(singular)] @ right


def singular_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values in descending order and all right singular vectors.

    Where values are repeated, vectors have no derivative; gaps of squared values are blurred by 1e-5
    there (d / (d^2 + 1e-10) in place of 1/d), which bounds the gradient and, at gaps above 0.01,
    changes a millionth of it.

    Args:
        matrix: [p, q].

    Returns:
        [min(p, q)], and the vectors as rows, [q, q].
    """
    values, vectors = _SingularVectors.apply(matrix)
    return values, vectors
