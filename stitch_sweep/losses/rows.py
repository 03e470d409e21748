"""How a representation becomes the rows of a matrix."""

from __future__ import annotations

from torch import Tensor

from stitch_sweep.stitches.shapes import channel_axis


def channels_last(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H, W, C]; a sequence [B, T, D] and a vector [B, D] are so already."""
    return x.movedim(1 + channel_axis(x.shape[1:]), -1)


def channels_first(x: Tensor) -> Tensor:
    """A row per channel, a column per image and place: [B, C, H, W] or [B, T, C] -> [C, B * places]."""
    return x.movedim(1 + channel_axis(x.shape[1:]), 0).flatten(1)


def positions(x: Tensor) -> Tensor:
    """A row per image and place, a column per channel: [B, C, H, W] -> [B * H * W, C].

    The places of a sequence [B, T, D] are its tokens, a class token among them; a vector [B, D] has one
    place and stays as it is.
    """
    x = channels_last(x)
    return x.reshape(-1, x.shape[-1])


def images(x: Tensor) -> Tensor:
    """A row per image, a column per unit: [B, ...] -> [B, units]."""
    return x.flatten(1)
