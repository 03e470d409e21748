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
    """A 1x1 convolution with bias, between maps of any two sizes.

    ```math
    S(x)_p = W r_p + b
    ```

    By default, the stitch mixes only channels, so its number of parameters doesn't depend on the ratio
    of the sizes. With `down: strided`, this number grows with the ratio, and the stitch extends `paper`
    to any ratio.

    Use: as the usual stitch.

    Assumes: positions correspond, so only channels have to be mixed.

    Invariant to: invertible affine maps of the channels.

    Joins: maps, sequences and vectors of any sizes. Into a vector, the stitch by default averages over
    all positions first; from a vector, all positions of a map get the same values.

    Parameters: C' (D + 1), with D = C unless `down: strided`.

    Multiply-adds: P C' D.

    Source: Lenc and Vedaldi 2015, arXiv 1411.5908.

    Args:
        sender: shape of the input, (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: shape of the output, likewise.
        down: how an axis shrinks.
        up: how an axis grows.
    """
    return ConvStitch(sender, receiver, Match.around(sender, receiver, down, up))


@STITCHES.register("conv3x3")
def conv3x3(
    sender: Shape, receiver: Shape, *, down: Pool = "average", up: Up = "nearest"
) -> ConvStitch:
    """A 3x3 convolution with bias, stride 1 and zero padding, after matching the receiver's size.

    ```math
    S(x)_p = W r_p + b
    ```

    r is the 3x3 window around a position, with zeros outside of the map.

    Use: where an output should also depend on neighboring positions.

    Assumes: positions have neighbors.

    Invariant to: invertible affine maps of the channels, except at the border.

    Joins: maps and sequences, but no vectors. A receiver's sequence must have no class token.

    Parameters: C' (9 C + 1).

    Multiply-adds: 9 P C' C.

    Args:
        sender: shape of the input, (C, H, W) or (T, D).
        receiver: shape of the output, likewise.
        down: how an axis shrinks.
        up: how an axis grows.

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
