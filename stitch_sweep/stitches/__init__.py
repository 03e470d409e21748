"""Stitches: the small maps that join two frozen networks, and how they start.

A stitch is registered as a factory `(sender_shape, receiver_shape, *, options) -> Stitch`; the
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
from stitch_sweep.stitches.affine import ConvStitch, PatchStitch
from stitch_sweep.stitches.base import DATA_STARTS, MAX_INPUTS, STARTS, AffineStitch, Stitch
from stitch_sweep.stitches.capacity import Capacity, capacity, l1_norm
from stitch_sweep.stitches.channelwise import ChannelwiseStitch
from stitch_sweep.stitches.convolutions import conv1x1, conv3x3
from stitch_sweep.stitches.dora import DoraStitch
from stitch_sweep.stitches.identity import IdentityStitch
from stitch_sweep.stitches.least_squares import LeastSquares, has_optimum
from stitch_sweep.stitches.linear import LinearStitch
from stitch_sweep.stitches.lowrank import LowRankStitch
from stitch_sweep.stitches.mlp import MlpStitch
from stitch_sweep.stitches.normed import NormedStitch
from stitch_sweep.stitches.orthogonal import OrthogonalStitch
from stitch_sweep.stitches.paper import paper
from stitch_sweep.stitches.permutation import PermutationStitch
from stitch_sweep.stitches.residual import ResidualStitch, basic_block, bottleneck
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.stitches.starts import check_start, start_stitch
from stitch_sweep.stitches.storage import describe_stitch, load_stitch, pack_stitch

__all__ = [
    "DATA_STARTS",
    "MAX_INPUTS",
    "STARTS",
    "AffineStitch",
    "Capacity",
    "ChannelwiseStitch",
    "ConvStitch",
    "DoraStitch",
    "IdentityStitch",
    "LeastSquares",
    "LinearStitch",
    "LowRankStitch",
    "MlpStitch",
    "NormedStitch",
    "OrthogonalStitch",
    "PatchStitch",
    "PermutationStitch",
    "ResidualStitch",
    "Shape",
    "Stitch",
    "basic_block",
    "bottleneck",
    "build_stitch",
    "capacity",
    "check_start",
    "conv1x1",
    "conv3x3",
    "describe_stitch",
    "has_optimum",
    "l1_norm",
    "load_stitch",
    "misfit",
    "pack_stitch",
    "paper",
    "start_stitch",
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

    On the meta device only what shapes decide is checked, which is everything that can be wrong.

    Args:
        name: a registered stitch.
        sender: shape of what it gets, without the batch: (C, H, W), (T, D) or (D,).
        receiver: shape of what it must give.
        start: one of `STARTS`. The result has started if this is `random` (mostly torch's default
            initialisation) or `identity` (the map that copies). The others need the training set: it
            is checked that they fit, and `start_stitch` does the rest.
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
    try:
        check_start(stitch, start)
    except InputError as error:
        raise InputError(f"stitch {name!r} {error}") from None
    if start == "identity" and not torch.empty(0).is_meta:
        start_stitch(stitch, start)
    return stitch


def misfit(
    name: str,
    sender: Shape,
    receiver: Shape,
    *,
    start: str = "random",
    options: Mapping[str, Any] | None = None,
) -> str | None:
    """Why a stitch can't join two shapes, or can't start so; None where it can. As `build_stitch`."""
    try:
        with torch.device("meta"):
            build_stitch(name, sender, receiver, start=start, options=options)
    except InputError as error:
        return str(error)
    return None
