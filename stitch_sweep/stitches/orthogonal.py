"""Rotations: maps that keep lengths and angles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.affine import PatchStitch
from stitch_sweep.stitches.closed_forms import AffineMap, procrustes
from stitch_sweep.stitches.moments import Moments
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.stitches.spatial import Match, Pool, Up


@STITCHES.register("orthogonal")
class OrthogonalStitch(PatchStitch):
    """A rotation of the channels with a shift: S(x) = s Q x + b, Q orthogonal throughout training.

    Between unequal widths Q is semi-orthogonal: Q^T Q = 1 where channels become more, Q Q^T = 1 where
    they become fewer.

    With m and k the larger and the smaller of C' and C, Q (or its transpose) is the first k columns of
    Q0 exp(A): Q0, m x m, is where it started, and A is skew with entries in its first k columns (and
    rows) only (Lezcano-Casado 2019, arXiv 1909.09501). A has exactly the m k - k (k + 1)/2 degrees of
    freedom of such Q, and starts at 0. Training never leaves the component it started in: for C' = C
    the sign of det Q stays, and a random start has the wrong one half of the time. `start: procrustes`
    has the right one.

    Args:
        sender: (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: likewise.
        scale: train a factor s as well; else s = 1.
        down: how an axis shrinks.
        up: how an axis grows.
    """

    base: Tensor
    below: Tensor
    left: Tensor

    def __init__(
        self,
        sender: Shape,
        receiver: Shape,
        *,
        scale: bool = False,
        down: Pool = "average",
        up: Up = "nearest",
    ) -> None:
        super().__init__(sender, receiver, Match.around(sender, receiver, down, up))
        self._m = max(self.inputs, self.outputs)
        self._k = min(self.inputs, self.outputs)
        # Into fewer channels |Q r| depends on Q, and the squared error is no longer a trace alone.
        self.has_optimum = self.outputs >= self.inputs
        self.register_buffer("base", _random_rotation(self._m))
        below, left = torch.tril_indices(self._m, self._k, offset=-1, device="cpu")
        self.register_buffer("below", below, persistent=False)
        self.register_buffer("left", left, persistent=False)
        self.angles = nn.Parameter(torch.zeros(len(below)))
        self.scale = nn.Parameter(torch.ones(())) if scale else None
        self.bias = nn.Parameter(torch.zeros(self.outputs))

    def rotation(self) -> Tensor:
        """Q, [C', C]."""
        half = self.angles.new_zeros(self._m, self._m).index_put(
            (self.below, self.left), self.angles
        )
        columns = (self.base @ torch.linalg.matrix_exp(half - half.T))[:, : self._k]
        return columns if self.outputs >= self.inputs else columns.T

    def matrix(self) -> Tensor:
        """The product s Q, [C', C]."""
        return self.rotation() if self.scale is None else self.scale * self.rotation()

    def offset(self) -> Tensor:
        """[C']."""
        return self.bias

    @torch.no_grad()
    def set_map(self, weight: Tensor, bias: Tensor, moments: Moments | None = None) -> None:
        """Any W that is s times a (semi-)orthogonal matrix."""
        if self.scale is not None:
            self.scale.copy_(torch.linalg.matrix_norm(weight, 2))
            weight = weight / torch.where(self.scale > 0, self.scale, 1.0).to(weight)
        tall = weight if self.outputs >= self.inputs else weight.T
        rest = torch.linalg.qr(tall, mode="complete").Q[:, self._k :]
        self.base.copy_(torch.cat([tall, rest], dim=1))
        self.angles.zero_()
        self.bias.copy_(bias)

    def solve(self, moments: Moments, ridge_below: float) -> AffineMap:
        """Procrustes; exact where `has_optimum`, that is for C' >= C."""
        return procrustes(moments, scaled=self.scale is not None)

    def why_not(self, start: str) -> str | None:
        """Besides, rotations into fewer channels have no closed form."""
        if start == "least_squares" and not self.has_optimum:
            return (
                f"rotations from {self.inputs} into {self.outputs} channels have no closed form for "
                "the squared error ('procrustes' maximises the trace)"
            )
        return super().why_not(start)


def _random_rotation(size: int) -> Tensor:
    """Haar-distributed, [size, size]: QR of a Gaussian matrix, signs fixed (Mezzadri 2007)."""
    if torch.empty(0).is_meta:
        return torch.empty(size, size)
    q, r = torch.linalg.qr(torch.randn(size, size))
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0)
