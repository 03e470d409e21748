"""An affine map of limited rank."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.core.bounds import Width
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.affine import PatchStitch
from stitch_sweep.stitches.closed_forms import AffineMap, reduced_rank
from stitch_sweep.stitches.moments import Moments
from stitch_sweep.stitches.shapes import Shape, as_map
from stitch_sweep.stitches.spatial import Down, Match, Up


@STITCHES.register("lowrank")
class LowRankStitch(PatchStitch):
    """A convolution whose matrix has rank r at most: W = U V, between maps of any two sizes.

    V (into r channels, without bias) sees the patches, U is a 1x1 convolution with bias. Least squares
    is reduced-rank regression.

    Args:
        sender: (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: likewise, C' channels.
        rank: r; from min(C', C kh kw) on it limits nothing, and that many channels are used.
        down: how an axis shrinks; with `strided` the kernel grows as for `conv1x1`.
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
        """U V, [C', C kh kw]."""
        return self.expand.weight.flatten(1) @ self.reduce.weight.flatten(1)

    def offset(self) -> Tensor:
        """[C']."""
        assert self.expand.bias is not None
        return self.expand.bias

    @torch.no_grad()
    def set_map(self, weight: Tensor, bias: Tensor, moments: Moments | None = None) -> None:
        """Any W of rank r; its singular values are shared evenly by U and V."""
        u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
        root = s[: self.rank].sqrt()
        self._set(u[:, : self.rank] * root, root[:, None] * vh[: self.rank], bias)

    def solve(self, moments: Moments, ridge_below: float) -> AffineMap:
        """Reduced-rank regression."""
        return reduced_rank(moments, self.rank, ridge_below)

    def multiply_adds(self) -> int:
        """Both factors, r (D + C), for every position."""
        return self.positions * self.rank * (self.inputs + self.outputs)

    def why_not(self, start: str) -> str | None:
        """Besides, what has full rank needs full rank."""
        full = min(self.inputs, self.outputs)
        if start in ("identity", "permutation", "procrustes") and self.rank < full:
            return f"that has rank {full}, and its rank is {self.rank}"
        return super().why_not(start)

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """U and V the unit matrix."""
        unit = torch.eye(self.rank, device="cpu")
        self._set(unit, unit, torch.zeros(self.outputs, device="cpu"))

    def _map(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand(self.reduce(x))
        return y

    def _set(self, u: Tensor, v: Tensor, bias: Tensor) -> None:
        self.expand.weight.copy_(u.reshape(self.expand.weight.shape))
        self.reduce.weight.copy_(v.reshape(self.reduce.weight.shape))
        self.offset().copy_(bias)
