"""Rotations of channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.closed_forms import AffineMap, procrustes
from stitch_sweep.stitches.moments import RegressionMoments
from stitch_sweep.stitches.patch_stitch import PatchStitch
from stitch_sweep.stitches.resizing import Pool, Up
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.stitches.size_matching import Match


@STITCHES.register("orthogonal")
class OrthogonalStitch(PatchStitch):
    r"""A rotation and a shift of the channels; the rotation stays orthogonal throughout training.

    ```math
    S(x)_p = s Q x_p + b, \qquad Q^\top Q = 1 \ \text{ or } \ Q Q^\top = 1
    ```

    Here, a rotation may include a reflection. Between unequal widths, Q is semi-orthogonal: Q^T Q = 1
    if the number of channels grows, Q Q^T = 1 if the number shrinks.

    Let m and k be the larger and the smaller of C' and C. Q (for C' < C, its transpose) consists of the
    first k columns of Q0 exp(A). Q0 is the orthogonal m x m matrix that `start` sets. A is
    skew-symmetric, starts at 0, and is 0 except in its first k columns and rows. A has as many free
    entries as Q has degrees of freedom.

    Training changes Q continuously. So for C' = C, the sign of det Q never changes: a rotation can't
    become a reflection. A random start has the wrong sign with probability 1/2. With the wrong sign,
    the training ends above the optimum, and the trial may be marked as not converged. `start:
    procrustes` has the right sign.

    Use: to test whether channels are the same up to a rotation.

    Assumes: the distance of two positions' channel vectors is similar in both representations.

    Invariant to: rotations and shifts of the channels (for C' >= C). With `scale`, also to scaling.

    Joins: maps, sequences and vectors of any sizes.

    Parameters: m k - k (k + 1)/2 + C', and 1 more with `scale`.

    Multiply-adds: P C' C.

    Source: Lezcano-Casado 2019, arXiv 1909.09501 (the parametrization); Schoenemann 1966 (the closed
    form).

    Args:
        sender: shape of the input, (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: shape of the output, likewise.
        scale: whether to train the factor s, too; otherwise s = 1.
        down: how an axis shrinks.
        up: how an axis grows.
    """

    base: Tensor
    angle_rows: Tensor
    angle_columns: Tensor

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
        # For fewer output channels, |Q r| depends on Q, so maximizing the trace doesn't minimize the
        # squared error.
        self.has_optimum = self.outputs >= self.inputs
        self.register_buffer("base", _random_rotation(self._m))
        rows, columns = torch.tril_indices(self._m, self._k, offset=-1, device="cpu")
        self.register_buffer("angle_rows", rows, persistent=False)
        self.register_buffer("angle_columns", columns, persistent=False)
        self.angles = nn.Parameter(torch.zeros(len(rows)))
        self.scale = nn.Parameter(torch.ones(())) if scale else None
        self.bias = nn.Parameter(torch.zeros(self.outputs))

    def rotation(self) -> Tensor:
        """Return Q, [C', C]."""
        half = self.angles.new_zeros(self._m, self._m).index_put(
            (self.angle_rows, self.angle_columns), self.angles
        )
        columns = (self.base @ torch.linalg.matrix_exp(half - half.T))[:, : self._k]
        return columns if self.outputs >= self.inputs else columns.T

    def matrix(self) -> Tensor:
        """Return s Q, [C', C]."""
        return self.rotation() if self.scale is None else self.scale * self.rotation()

    def offset(self) -> Tensor:
        """Return b, [C']."""
        return self.bias

    @torch.no_grad()
    def set_map(
        self, weight: Tensor, bias: Tensor, moments: RegressionMoments | None = None
    ) -> None:
        """Set W and b; W must be s times a (semi-)orthogonal matrix."""
        if self.scale is not None:
            self.scale.copy_(torch.linalg.matrix_norm(weight, 2))
            weight = weight / torch.where(self.scale > 0, self.scale, 1.0).to(weight)
        tall = weight if self.outputs >= self.inputs else weight.T
        rest = torch.linalg.qr(tall, mode="complete").Q[:, self._k :]
        self.base.copy_(torch.cat([tall, rest], dim=1))
        self.angles.zero_()
        self.bias.copy_(bias)

    def solve(self, moments: RegressionMoments, ridge_below: float) -> AffineMap:
        """Fit the Procrustes rotation; it is optimal if `has_optimum`, that is for C' >= C."""
        return procrustes(moments, scaled=self.scale is not None)

    def explain_start_refusal(self, start: str) -> str | None:
        """Refuse least squares into fewer channels too, because there is no closed form."""
        if start == "least_squares" and not self.has_optimum:
            return (
                f"rotations from {self.inputs} into {self.outputs} channels have no closed form for "
                "the squared error; use 'procrustes', which has a closed form"
            )
        return super().explain_start_refusal(start)


def _random_rotation(size: int) -> Tensor:
    """Draw a Haar-distributed rotation [size, size]: QR of a Gaussian, signs fixed (Mezzadri 2007)."""
    if torch.empty(0).is_meta:
        return torch.empty(size, size)
    q, r = torch.linalg.qr(torch.randn(size, size))
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0)
