"""Stitches: the small maps that join two frozen networks, and how they start.

A stitch is registered as a factory `(sender_shape, receiver_shape, *, options) -> nn.Module`; the
module maps [B, *sender_shape] to [B, *receiver_shape]. Shapes exclude the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stitch_sweep.errors import InputError
from stitch_sweep.registry import STITCHES
from stitch_sweep.seeding import derive
from stitch_sweep.stitches.affine import (
    AffineStitch,
    LinearStitch,
    SpatialStitch,
    conv1x1,
    linear,
    paper,
)
from stitch_sweep.stitches.identity import identity
from stitch_sweep.stitches.least_squares import LeastSquares
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.stitches.storage import describe_stitch, load_stitch, pack_stitch

__all__ = [
    "AffineStitch",
    "LeastSquares",
    "LinearStitch",
    "Shape",
    "SpatialStitch",
    "build_stitch",
    "conv1x1",
    "describe_stitch",
    "identity",
    "linear",
    "load_stitch",
    "pack_stitch",
    "paper",
]


def build_stitch(
    name: str,
    sender: Shape,
    receiver: Shape,
    *,
    start: str = "random",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    repeat: int = 0,
) -> nn.Module:
    """A new stitch, its weights a function of (seed, repeat, name, shapes) and nothing else.

    Args:
        name: a registered stitch.
        sender: shape of what it gets, without the batch: (C, H, W) or (D,).
        receiver: shape of what it must give.
        start: `random` (torch's default initialisation) or `identity` (the map that copies).
        options: the stitch's own options.
        seed: the sweep's seed.
        repeat: which repeat.

    Raises:
        InputError: this stitch can't join these shapes, or can't start so.

    Example:
        >>> stitch = build_stitch("paper", (64, 32, 32), (128, 16, 16))
        >>> stitch(torch.zeros(2, 64, 32, 32)).shape
        torch.Size([2, 128, 16, 16])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, repeat, "stitch", name, list(sender), list(receiver)))
        stitch: nn.Module = STITCHES.build(name, sender, receiver, options=options)
    if start == "identity":
        copy = getattr(stitch, "start_as_identity", None)
        if copy is None:
            raise InputError(f"stitch {name!r} can't start as the identity; use start: random")
        copy()
    return stitch
