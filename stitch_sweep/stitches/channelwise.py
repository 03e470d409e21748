"""A scale and a shift for each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.closed_forms import AffineMap, per_channel
from stitch_sweep.stitches.moments import RegressionMoments
from stitch_sweep.stitches.patch_stitch import PatchStitch
from stitch_sweep.stitches.resizing import Pool, Up
from stitch_sweep.stitches.shapes import Shape, as_map, shape_error
from stitch_sweep.stitches.size_matching import Match


@STITCHES.register("affine")
class ChannelwiseStitch(PatchStitch):
    """A scale and a shift for each channel.

    ```math
    S(x)_c = a_c x_c + b_c
    ```

    The stitch doesn't mix channels.

    Use: between layers of one network, or of networks that were trained from equal initial weights.

    Assumes: channel c of the sender corresponds to channel c of the receiver.

    Invariant to: scale and shift of each channel.

    Joins: maps, sequences and vectors of any sizes with the same number of channels.

    Parameters: 2 C.

    Multiply-adds: P C.

    Args:
        sender: shape of the input, (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: shape of the output, with equally many channels.
        down: how an axis shrinks.
        up: how an axis grows.

    Raises:
        InputError: the numbers of channels differ.
    """

    def __init__(
        self, sender: Shape, receiver: Shape, *, down: Pool = "average", up: Up = "nearest"
    ) -> None:
        super().__init__(sender, receiver, Match.around(sender, receiver, down, up))
        if as_map(sender)[0] != as_map(receiver)[0]:
            raise shape_error("affine", sender, receiver, "equally many channels on both sides")
        self.scale = nn.Parameter(torch.empty(self.outputs))
        self.shift = nn.Parameter(torch.empty(self.outputs))
        # This is torch's initialization of a 1x1 convolution with a single channel.
        nn.init.uniform_(self.scale, -1, 1)
        nn.init.uniform_(self.shift, -1, 1)

    def matrix(self) -> Tensor:
        """Return the diagonal matrix of scales, [C, C]."""
        return torch.diag(self.scale)

    def offset(self) -> Tensor:
        """Return the shifts, [C]."""
        return self.shift

    @torch.no_grad()
    def set_map(
        self, weight: Tensor, bias: Tensor, moments: RegressionMoments | None = None
    ) -> None:
        """Set W and b; W must be diagonal."""
        self.scale.copy_(weight.diagonal())
        self.shift.copy_(bias)

    def solve(self, moments: RegressionMoments, ridge_below: float) -> AffineMap:
        """Regress each channel separately."""
        return per_channel(moments)

    def multiply_adds(self) -> int:
        """Count one for every value."""
        return self.positions * self.outputs

    def explain_start_refusal(self, start: str) -> str | None:
        """Refuse starts that mix channels, too."""
        if start in ("permutation", "procrustes"):
            return "it doesn't mix channels"
        return super().explain_start_refusal(start)

    def _map(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None] + self.shift[:, None, None]
