"""Stitches: the small maps that join two frozen networks, and how they start.

A stitch is registered as a factory `(sender_shape, receiver_shape, *, options) -> Stitch`; the
module maps [B, *sender_shape] to [B, *receiver_shape]. Shapes exclude the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.core.seeding import derive
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.stitches.starts import check_start, start_stitch


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
