"""Inverse roots and singular vectors with finite gradients at repeated and zero values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CLOSEST = 1e-4
"""Smallest gap between a kept and a dropped eigenvalue, relative to the kept eigenvalue; smaller gaps are
replaced by this value."""
_BLUR = 1e-5
"""Gap between squared correlations that limits the gradient: smaller gaps don't increase it further."""


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
        # For two used eigenvalues l, m: (1/sqrt(l) - 1/sqrt(m)) / (l - m), with the gap cancelled.
        both = -(a * b).square() / torch.where(a + b > 0, a + b, 1.0)
        # If one eigenvalue is dropped, its term is 0 and the gap stays in the denominator.
        larger = torch.maximum(values[:, None], values)
        gap = torch.maximum((values[:, None] - values).abs(), _CLOSEST * larger)
        single = -torch.maximum(a, b) / torch.where(gap > 0, gap, 1.0)
        single = torch.where((a > 0) ^ (b > 0), -single, 0.0)
        quotients = torch.where((a > 0) & (b > 0), both, single)
        inner = quotients * (vectors.T @ gradient @ vectors)
        result = vectors @ inner @ vectors.T
        return (result + result.T) / 2, None, None, None


def inverse_root(
    matrix: Tensor, *, tolerance: float, share: float = 1.0, ridge: float = 0.0
) -> tuple[Tensor, int]:
    """Compute (P A P + r I)^(-1/2) on the kept directions, 0 on the others.

    Eigenvalues above `tolerance` times the largest are kept, and of these the fewest whose sum is at
    least `share` of the sum of all. With a ridge every direction is used. The gradient, that of a
    spectral function (Daleckii and Krein), treats the selection as fixed. It contains no difference of
    two used eigenvalues, so repeated eigenvalues are harmless. It contains the gap between a kept and a
    dropped eigenvalue; a gap below 1e-4 of the eigenvalue counts as 1e-4 of it.

    Args:
        matrix: symmetric and positive semi-definite, [p, p].
        tolerance: relative to the largest eigenvalue.
        share: share of the sum of eigenvalues to keep, in (0, 1].
        ridge: r, added to every eigenvalue.

    Returns:
        [p, p], and the number of kept directions (the rank, if share is 1).
    """
    root, rank = _InverseRoot.apply(matrix, tolerance, share, ridge)
    return root, int(rank)


class _SingularVectors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = matrix.shape
        # Compute the right vectors of the null space too: the gradient of the others depends on them.
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
        # The vectors are eigenvectors of A^T A; the gradient of A follows from that of A^T A.
        return result + (left * singular) @ (inner + inner.T)[: len(singular)] @ right


def singular_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Compute singular values in descending order and all right singular vectors.

    Vectors of repeated values have no derivative. The gradient uses d / (d^2 + 1e-10) instead of 1/d
    for a gap d of squared values. That bounds it, and changes it by a millionth at gaps above 0.01.

    Args:
        matrix: [p, q].

    Returns:
        The values, [min(p, q)], and the vectors as rows, [q, q].
    """
    values, vectors = _SingularVectors.apply(matrix)
    return values, vectors
