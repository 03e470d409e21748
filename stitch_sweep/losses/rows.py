"""Representations as matrices: which axes become rows, and which become columns."""

from __future__ import annotations

from torch import Tensor

from stitch_sweep.stitches.shapes import channel_axis


def channels_last(x: Tensor) -> Tensor:
    """Move the channels to the end: [B, C, H, W] to [B, H, W, C]; [B, T, D] and [B, D] don't change."""
    return x.movedim(1 + channel_axis(x.shape[1:]), -1)


def channels_first(x: Tensor) -> Tensor:
    """Make a row per channel and a column per image and position: [B, C, H, W] to [C, B * H * W]."""
    return x.movedim(1 + channel_axis(x.shape[1:]), 0).flatten(1)


def positions(x: Tensor) -> Tensor:
    """Make a row per image and position and a column per channel: [B, C, H, W] to [B * H * W, C].

    The positions of a sequence [B, T, D] are its tokens, including a class token. A vector [B, D] has one
    position and doesn't change.
    """
    x = channels_last(x)
    return x.reshape(-1, x.shape[-1])


def images(x: Tensor) -> Tensor:
    """Make a row per image and a column per unit: [B, ...] to [B, units]."""
    return x.flatten(1)
