"""A frozen base map with a trained magnitude and a trained low-rank direction."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stitch_sweep.core.bounds import Above0, Width
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.moments import RegressionMoments
from stitch_sweep.stitches.patch_stitch import PatchStitch
from stitch_sweep.stitches.resizing import Up
from stitch_sweep.stitches.shapes import Shape, as_map
from stitch_sweep.stitches.size_matching import Down, Match


@STITCHES.register("dora")
class DoraStitch(PatchStitch):
    r"""A frozen base map, corrected by a trained magnitude and a trained low-rank direction.

    ```math
    W = m \, \frac{W_0 + \frac{\alpha}{\text{rank}} B A}{\lVert W_0 + \frac{\alpha}{\text{rank}} B A \rVert}, \qquad S(x)_p = W r_p + b_0
    ```

    This is weight-decomposed low-rank adaptation (DoRA). Each output channel has its own norm and
    magnitude, as in published implementations. `start` sets W0 and the bias b0 of the base map, which
    aren't trained. B starts at 0 and m at the norm of W0, so the stitch starts as its base map, bit for
    bit.

    Use: to start from a closed form and train a small correction.

    Assumes: the base map is nearly right.

    Invariant to: invertible affine maps of the channels, if `start` is `least_squares`.

    Joins: maps, sequences and vectors of any sizes.

    Parameters: C' + rank (C' + D).

    Multiply-adds: P C' D.

    Source: Liu et al. 2024, arXiv 2402.09353.

    Args:
        sender: shape of the input, (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: shape of the output, likewise, C' channels.
        rank: rank of the correction, limited to min(C', D).
        alpha: weight of the correction, before the division by `rank`.
        down: how an axis shrinks; with `strided`, the kernel grows as for `conv1x1`.
        up: how an axis grows.
    """  # noqa: E501

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
        rank = min(rank, self.inputs, self.outputs)
        self.factor = alpha / rank
        conv = nn.Conv2d(as_map(sender)[0], self.outputs, match.kernel)
        assert conv.bias is not None
        self.register_buffer("base", conv.weight.detach().flatten(1))
        self.register_buffer("base_bias", conv.bias.detach())
        self.m = nn.Parameter(torch.empty(self.outputs))
        self.delta_D_A = nn.Parameter(torch.empty(rank, self.inputs))
        self.delta_D_B = nn.Parameter(torch.zeros(self.outputs, rank))
        nn.init.kaiming_uniform_(self.delta_D_A, a=math.sqrt(5))
        self._reset_magnitudes()

    def matrix(self) -> Tensor:
        """Return W, [C', C kh kw]."""
        direction = self.base + self.factor * (self.delta_D_B @ self.delta_D_A)
        norms = _norms(direction)
        # Compute the quotient first, because it is exactly 1 before any training.
        return (self.m / torch.where(norms > 0, norms, 1.0))[:, None] * direction

    def offset(self) -> Tensor:
        """Return b, [C']; it isn't trained."""
        return self.base_bias

    @torch.no_grad()
    def set_map(
        self, weight: Tensor, bias: Tensor, moments: RegressionMoments | None = None
    ) -> None:
        """Set the base to any W and b."""
        self.base.copy_(weight)
        self.base_bias.copy_(bias)
        self.delta_D_B.zero_()
        self._reset_magnitudes()

    def _reset_magnitudes(self) -> None:
        if not self.base.is_meta:
            self.m.data.copy_(_norms(self.base))


def _norms(weight: Tensor) -> Tensor:
    """Compute |row| in float64, then round, so that every device gets the same bits."""
    return torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64).to(weight.dtype)
