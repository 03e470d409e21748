"""Plain convolutions between maps of any two sizes."""

from __future__ import annotations

import torch

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.affine import ConvStitch
from stitch_sweep.stitches.shapes import Shape, have_neighbours, unfit
from stitch_sweep.stitches.spatial import Down, Match, Pool, Up


@STITCHES.register("conv1x1")
def conv1x1(
    sender: Shape, receiver: Shape, *, down: Down = "average", up: Up = "nearest"
) -> ConvStitch:
    """A 1x1 convolution with bias, between maps of any two sizes.

    It mixes channels only (Lenc and Vedaldi 2015, arXiv 1411.5908), so its capacity doesn't grow with
    the ratio of the maps; with `down: strided` it does, and this is `paper` for any ratio.

    Args:
        sender: (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: likewise.
        down: how an axis shrinks; see `Match.around`.
        up: how an axis grows.
    """
    return ConvStitch(sender, receiver, Match.around(sender, receiver, down, up))


@STITCHES.register("conv3x3")
def conv3x3(
    sender: Shape, receiver: Shape, *, down: Pool = "average", up: Up = "nearest"
) -> ConvStitch:
    """The receiver's size first, then a 3x3 convolution with bias, stride 1 and a border of zeros.

    Args:
        sender: (C, H, W) or (T, D).
        receiver: likewise.
        down: how an axis shrinks.
        up: how an axis grows.

    Raises:
        InputError: a vector, or a receiver's class token, which has no neighbours.
    """
    if not have_neighbours(sender, receiver):
        wanted = (
            "two feature maps, or sequences, the receiver's without class token (else: 'conv1x1')"
        )
        raise unfit("conv3x3", sender, receiver, wanted)
    return Conv3x3Stitch(sender, receiver, Match.first(sender, receiver, down, up))


class Conv3x3Stitch(ConvStitch):
    """A 3x3 convolution of a map that has the receiver's size already."""

    def why_not(self, start: str) -> str | None:
        """An identity copies the middle of each patch."""
        if start != "identity":
            return super().why_not(start)
        channels = self.inputs // self.match.window
        if channels == self.outputs:
            return None
        return f"it maps {channels} channels to {self.outputs}, and not to as many"

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """1 in the middle of each channel's own kernel."""
        weight = torch.zeros(self.conv.weight.shape, device="cpu")
        weight[:, :, 1, 1] = torch.eye(self.outputs, device="cpu")
        self.set_map(weight, torch.zeros(self.outputs, device="cpu"))
