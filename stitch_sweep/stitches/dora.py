"""A frozen base map with a trained low-rank direction and magnitude."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stitch_sweep.core.bounds import Above0, Width
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.affine import PatchStitch
from stitch_sweep.stitches.moments import Moments
from stitch_sweep.stitches.shapes import Shape, as_map
from stitch_sweep.stitches.spatial import Down, Match, Up


@STITCHES.register("dora")
class DoraStitch(PatchStitch):
    """A frozen base, corrected by a trained magnitude and a trained low-rank direction.

        W = m (W0 + (alpha/r) delta_D_B delta_D_A) / |W0 + (alpha/r) delta_D_B delta_D_A|

    Weight-decomposed low-rank adaptation (Liu et al. 2024, arXiv 2402.09353), norms and magnitudes per
    output channel as in its implementations. W0 and the bias are buffers: whatever the stitch started
    as. delta_D_B starts at 0 and m at |W0|, so that it starts as its base to the last bit.

    Args:
        sender: (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: likewise, C' channels.
        rank: r of the correction; min(C', C kh kw) at most are used.
        alpha: weight of the correction, over r.
        down: how an axis shrinks; with `strided` the kernel grows as for `conv1x1`.
        up: how an axis grows.
    """

    has_optimum = False
    base: Tensor
    base_bias: Tensor

    def __init__(
        self,
        sender: Shape,
        receiver: Shape,
        *,
        rank: Width = 4,
        alpha: Above0 = 4.0,
        down: Down = "average",
        up: Up = "nearest",
    ) -> None:
        match = Match.around(sender, receiver, down, up)
        super().__init__(sender, receiver, match)
        used = min(rank, self.inputs, self.outputs)
        self.factor = alpha / used
        conv = nn.Conv2d(as_map(sender)[0], self.outputs, match.kernel)
        assert conv.bias is not None
        self.register_buffer("base", conv.weight.detach().flatten(1))
        self.register_buffer("base_bias", conv.bias.detach())
        self.m = nn.Parameter(torch.empty(self.outputs))
        self.delta_D_A = nn.Parameter(torch.empty(used, self.inputs))
        self.delta_D_B = nn.Parameter(torch.zeros(self.outputs, used))
        nn.init.kaiming_uniform_(self.delta_D_A, a=math.sqrt(5))
        self._take_magnitudes()

    def matrix(self) -> Tensor:
        """[C', C kh kw]."""
        direction = self.base + self.factor * (self.delta_D_B @ self.delta_D_A)
        norms = _norms(direction)
        # The quotient first: where nothing is trained yet it is 1 exactly.
        return (self.m / torch.where(norms > 0, norms, 1.0))[:, None] * direction

    def offset(self) -> Tensor:
        """[C']; not trained."""
        return self.base_bias

    @torch.no_grad()
    def set_map(self, weight: Tensor, bias: Tensor, moments: Moments | None = None) -> None:
        """Any W and b, as the new base."""
        self.base.copy_(weight)
        self.base_bias.copy_(bias)
        self.delta_D_B.zero_()
        self._take_magnitudes()

    def _take_magnitudes(self) -> None:
        if not self.base.is_meta:
            self.m.data.copy_(_norms(self.base))


def _norms(weight: Tensor) -> Tensor:
    """|row|, in float64 before rounding, so that every device finds the same."""
    return torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64).to(weight.dtype)
