"""Plain convolutions between maps of any two sizes."""

from __future__ import annotations

import torch

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.patch_stitch import ConvStitch
from stitch_sweep.stitches.resizing import Pool, Up
from stitch_sweep.stitches.shapes import Shape, have_neighbors, shape_error
from stitch_sweep.stitches.size_matching import Down, Match


@STITCHES.register("conv1x1")
def conv1x1(
    sender: Shape, receiver: Shape, *, down: Down = "average", up: Up = "nearest"
) -> ConvStitch:
    """Build a 1x1 convolution with bias, between maps of any two sizes.

    It mixes channels only (Lenc and Vedaldi 2015, arXiv 1411.5908), so its capacity doesn't depend on the
    ratio of the sizes. With `down: strided` the capacity depends on the ratio, and the stitch extends
    `paper` to any ratio.

    Args:
        sender: shape of the input, (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: shape of the output, likewise.
        down: how an axis shrinks: `strided`, `average` or `max`; see `Match.around`.
        up: how an axis grows: `nearest` or `bilinear`.
    """
    return ConvStitch(sender, receiver, Match.around(sender, receiver, down, up))


@STITCHES.register("conv3x3")
def conv3x3(
    sender: Shape, receiver: Shape, *, down: Pool = "average", up: Up = "nearest"
) -> ConvStitch:
    """Build a 3x3 convolution with bias, stride 1 and zero padding, after matching the receiver's size.

    Args:
        sender: shape of the input, (C, H, W) or (T, D).
        receiver: shape of the output, likewise.
        down: how an axis shrinks: `average` or `max`.
        up: how an axis grows: `nearest` or `bilinear`.

    Raises:
        InputError: a shape is a vector, or the receiver has a class token; these positions have no
            neighbors.
    """
    if not have_neighbors(sender, receiver):
        needed = (
            "two feature maps, or sequences, the receiver's without class token; else use 'conv1x1'"
        )
        raise shape_error("conv3x3", sender, receiver, needed)
    return Conv3x3Stitch(sender, receiver, Match.first(sender, receiver, down, up))


class Conv3x3Stitch(ConvStitch):
    """A 3x3 convolution of a map that already has the receiver's size."""

    def explain_start_refusal(self, start: str) -> str | None:
        """Allow the identity, which copies each patch's center, for equal numbers of channels."""
        if start != "identity":
            return super().explain_start_refusal(start)
        channels = self.inputs // self.match.window
        if channels == self.outputs:
            return None
        return f"it maps {channels} channels to {self.outputs}, not to equally many"

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Set the center of each channel's kernel for itself to 1, and all other weights to 0."""
        weight = torch.zeros(self.conv.weight.shape, device="cpu")
        weight[:, :, 1, 1] = torch.eye(self.outputs, device="cpu")
        self.set_map(weight, torch.zeros(self.outputs, device="cpu"))
