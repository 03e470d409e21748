"""A scale and a shift for each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.affine import PatchStitch
from stitch_sweep.stitches.closed_forms import AffineMap, per_channel
from stitch_sweep.stitches.moments import Moments
from stitch_sweep.stitches.shapes import Shape, as_map, unfit
from stitch_sweep.stitches.spatial import Match, Pool, Up


@STITCHES.register("affine")
class ChannelwiseStitch(PatchStitch):
    """A scale and a shift for each channel: S(x)_c = a_c x_c + b_c.

    Channels are not mixed: channel c of the receiver has to be channel c of the sender.

    Args:
        sender: (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: likewise, with as many channels.
        down: how an axis shrinks.
        up: how an axis grows.

    Raises:
        InputError: another number of channels.
    """

    def __init__(
        self, sender: Shape, receiver: Shape, *, down: Pool = "average", up: Up = "nearest"
    ) -> None:
        super().__init__(sender, receiver, Match.around(sender, receiver, down, up))
        if as_map(sender)[0] != as_map(receiver)[0]:
            raise unfit("affine", sender, receiver, "as many channels on both sides")
        self.scale = nn.Parameter(torch.empty(self.outputs))
        self.shift = nn.Parameter(torch.empty(self.outputs))
        # As torch starts a 1x1 convolution of each channel alone.
        nn.init.uniform_(self.scale, -1, 1)
        nn.init.uniform_(self.shift, -1, 1)

    def matrix(self) -> Tensor:
        """The diagonal matrix of scales, [C, C]."""
        return torch.diag(self.scale)

    def offset(self) -> Tensor:
        """[C]."""
        return self.shift

    @torch.no_grad()
    def set_map(self, weight: Tensor, bias: Tensor, moments: Moments | None = None) -> None:
        """Any diagonal W."""
        self.scale.copy_(weight.diagonal())
        self.shift.copy_(bias)

    def solve(self, moments: Moments, ridge_below: float) -> AffineMap:
        """Each channel's own regression."""
        return per_channel(moments)

    def multiply_adds(self) -> int:
        """One for every value."""
        return self.positions * self.outputs

    def why_not(self, start: str) -> str | None:
        """Besides, nothing that mixes channels."""
        if start in ("permutation", "procrustes"):
            return "it doesn't mix channels"
        return super().why_not(start)

    def _map(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None] + self.shift[:, None, None]
