"""An affine map of limited rank."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.core.bounds import Width
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.closed_forms import AffineMap, reduced_rank
from stitch_sweep.stitches.moments import RegressionMoments
from stitch_sweep.stitches.patch_stitch import PatchStitch
from stitch_sweep.stitches.resizing import Up
from stitch_sweep.stitches.shapes import Shape, as_map
from stitch_sweep.stitches.size_matching import Down, Match


@STITCHES.register("lowrank")
class LowRankStitch(PatchStitch):
    """A convolution whose matrix has rank at most `rank`, between maps of any two sizes.

    ```math
    S(x)_p = U V r_p + b
    ```

    V maps r_p to `rank` channels, without bias; U is a 1x1 convolution with bias. The least-squares fit
    is reduced-rank regression.

    Use: to measure how many dimensions the receiver needs.

    Assumes: a few directions of the sender's representation are enough for the receiver.

    Invariant to: invertible affine maps of the channels.

    Joins: maps, sequences and vectors of any sizes.

    Parameters: rank (C' + D) + C', which is rank^2 more than the degrees of freedom.

    Multiply-adds: P rank (C' + D).

    Source: Izenman 1975 (reduced-rank regression).

    Args:
        sender: shape of the input, (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: shape of the output, likewise, C' channels.
        rank: largest rank of U V, limited to min(C', D).
        down: how an axis shrinks; with `strided`, the kernel grows as for `conv1x1`.
        up: how an axis grows.
    """

    def __init__(
        self,
        sender: Shape,
        receiver: Shape,
        *,
        rank: Width = 4,
        down: Down = "average",
        up: Up = "nearest",
    ) -> None:
        match = Match.around(sender, receiver, down, up)
        super().__init__(sender, receiver, match)
        self.rank = min(rank, self.inputs, self.outputs)
        self.reduce = nn.Conv2d(
            as_map(sender)[0], self.rank, match.kernel, match.stride, bias=False
        )
        self.expand = nn.Conv2d(self.rank, self.outputs, 1)

    def matrix(self) -> Tensor:
        """Return U V, [C', C kh kw]."""
        return self.expand.weight.flatten(1) @ self.reduce.weight.flatten(1)

    def offset(self) -> Tensor:
        """Return b, [C']."""
        assert self.expand.bias is not None
        return self.expand.bias

    @torch.no_grad()
    def set_map(
        self, weight: Tensor, bias: Tensor, moments: RegressionMoments | None = None
    ) -> None:
        """Set W and b; W must have rank r. U and V share the roots of its singular values."""
        u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
        root = s[: self.rank].sqrt()
        self._set_factors(u[:, : self.rank] * root, root[:, None] * vh[: self.rank], bias)

    def solve(self, moments: RegressionMoments, ridge_below: float) -> AffineMap:
        """Fit a reduced-rank regression."""
        return reduced_rank(moments, self.rank, ridge_below)

    def multiply_adds(self) -> int:
        """Count both factors, r (D + C), for every position."""
        return self.positions * self.rank * (self.inputs + self.outputs)

    def explain_start_refusal(self, start: str) -> str | None:
        """Refuse maps of full rank too, if the rank is limited."""
        full = min(self.inputs, self.outputs)
        if start in ("identity", "permutation", "procrustes") and self.rank < full:
            return f"such a map has rank {full}, and the stitch has rank {self.rank}; set rank to {full}"
        return super().explain_start_refusal(start)

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Set U and V to the unit matrix."""
        unit = torch.eye(self.rank, device="cpu")
        self._set_factors(unit, unit, torch.zeros(self.outputs, device="cpu"))

    def _map(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand(self.reduce(x))
        return y

    def _set_factors(self, u: Tensor, v: Tensor, bias: Tensor) -> None:
        self.expand.weight.copy_(u.reshape(self.expand.weight.shape))
        self.reduce.weight.copy_(v.reshape(self.reduce.weight.shape))
        self.offset().copy_(bias)
