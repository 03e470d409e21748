"""Build a stitch by name.

A stitch is registered as a factory `(sender_shape, receiver_shape, *, options) -> Stitch`; the module
maps [B, *sender_shape] to [B, *receiver_shape]. Shapes exclude the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stitch_sweep.config.stitch import StitchConfig
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
    """Build a stitch; its weights depend on (seed, repeat, name, shapes) only.

    On the meta device it checks shapes, options and start without computing weights.

    Args:
        name: a registered stitch.
        sender: shape of the input without the batch: (C, H, W), (T, D) or (D,).
        receiver: shape of the output, likewise.
        start: one of `STARTS`. With `random` (mostly torch's default initialization) and `identity` (the
            map that copies), the returned stitch is initialized. Other starts depend on the training set:
            this function only checks that they are possible, and `start_stitch` initializes the stitch.
        options: the stitch's options.
        seed: the sweep's seed.
        repeat: number of the repeat.

    Raises:
        InputError: the stitch can't join these shapes, or can't have this start.

    Example:
        >>> stitch = build_stitch("paper", (64, 32, 32), (128, 16, 16))
        >>> stitch(torch.zeros(2, 64, 32, 32)).shape
        torch.Size([2, 128, 16, 16])
    """
    with torch.random.fork_rng(devices=[]):
        _seed_weights(derive(seed, repeat, "stitch", name, list(sender), list(receiver)))
        stitch = STITCHES.build(name, sender, receiver, options=options)
    if not isinstance(stitch, nn.Module):
        raise InputError(
            f"stitch {name!r}: returned a {type(stitch).__name__}, not a torch.nn.Module"
        )
    try:
        check_start(stitch, start)
    except InputError as error:
        raise InputError(f"stitch {name!r} {error}") from None
    if start == "identity" and not torch.empty(0).is_meta:
        start_stitch(stitch, start)
    return stitch


def _seed_weights(seed: int) -> None:
    """Seed the generators that weights are drawn from, as `torch.manual_seed` does.

    Without a GPU, `torch.manual_seed` formats the call stack three times, for devices that may be
    initialized later. That takes longer than building a small stitch, and a sweep builds thousands.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def build_on_meta(config: StitchConfig, sender: Shape, receiver: Shape) -> nn.Module:
    """Build a configured stitch without weights, to read its class, its sizes and its parameters.

    Args:
        config: name, start and options of the stitch.
        sender: shape of the input without the batch.
        receiver: shape of the output, likewise.

    Raises:
        InputError: the stitch can't join these shapes, or can't have this start.
    """
    with torch.device("meta"):
        return build_stitch(
            config.name, sender, receiver, start=config.start, options=config.options
        )


def misfit(config: StitchConfig, sender: Shape, receiver: Shape) -> str | None:
    """Explain why a configured stitch can't join two shapes or can't have its start; None if it can."""
    try:
        stitch = build_on_meta(config, sender, receiver)
    except InputError as error:
        return str(error)
    return _explain_output(stitch, config.name, sender, receiver)


def _explain_output(stitch: nn.Module, name: str, sender: Shape, receiver: Shape) -> str | None:
    """Explain that a stitch of a plugin returns another shape than the receiver's; None if it doesn't."""
    if not STITCHES.has_extension(name):
        return None
    try:
        with torch.no_grad():
            output = stitch(torch.empty(2, *sender, device="meta"))
    except Exception:
        return None  # it may do what is impossible without values; a training shows its errors
    shape = tuple(getattr(output, "shape", ()))[1:]
    if shape == tuple(receiver):
        return None
    return (
        f"stitch {name!r} returns the shape {list(shape)}, and the receiver takes {list(receiver)}"
    )
