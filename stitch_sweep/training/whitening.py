"""The whitening of a sender's channels, from the training images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from stitch_sweep.losses.moments import moments_of_rows
from stitch_sweep.stitches.base import ChannelMixer
from stitch_sweep.stitches.whitened import WhitenedStitch, Whitening

_ROWS = 2**18
"""Number of channel vectors whose moments are computed at a time, but at least those of one image."""


@torch.no_grad()
def whiten(stitch: ChannelMixer, inputs: Iterable[Tensor]) -> WhitenedStitch:
    """Return a stitch that starts as `stitch` and is trained on whitened channels.

    Moments are accumulated in float64 over all positions that the stitch's weights see.

    Args:
        stitch: in its initial state.
        inputs: the sender's representation of the training images in batches [B, *sender].

    Raises:
        ValueError: there are no inputs.
    """
    size = max(1, _ROWS // max(1, stitch.positions))
    moments = moments_of_rows(stitch.channel_values(part) for x in inputs for part in x.split(size))
    whitening = Whitening.fit(
        moments.mean_x, moments.xx / moments.count, centered=not stitch.keeps_zeros
    )
    return WhitenedStitch(stitch, whitening)
