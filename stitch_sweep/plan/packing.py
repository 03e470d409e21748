"""The width of a pack: `resources.pack`, or a width chosen from the size of the receiver's rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.config.resources import ResourcesConfig
from stitch_sweep.networks.frozen import FrozenNetwork

WIDEST: Mapping[str, int] = {"cpu": 16, "cuda": 32}
"""Largest width that `auto` chooses, by device."""
PASS_MULTIPLY_ADDS: Mapping[str, float] = {"cpu": 1e8, "cuda": 2e10}
"""Multiply-adds of a pass from which a wider pack saves little, by device. On a CPU a pass of this size
takes tens of milliseconds, of which calls of operations are a few percent."""


def pack_width(
    resources: ResourcesConfig,
    receiver: FrozenNetwork,
    layer: int,
    image_shape: Sequence[int],
    batch_size: int,
) -> int:
    """Return the width of the packs whose stitches lead into one layer of a receiver.

    `auto` is the largest power of 2 with which a forward pass of the receiver's rest has at most
    `PASS_MULTIPLY_ADDS`, within 1 and `WIDEST`. It is never chosen from measured times, because the width
    changes the last bits of results.

    Args:
        resources: the section of the configuration.
        receiver: the network that continues after `layer`.
        layer: -1 (the image) or a layer's index.
        image_shape: shape of an image, (C, H, W).
        batch_size: images per training batch of a stitch.

    Example:
        >>> pack_width(ResourcesConfig(pack="auto"), receiver, 3, (3, 32, 32), batch_size=64)
        16
    """
    if resources.pack != "auto":
        return resources.pack
    shape = receiver.shape(layer, image_shape)
    multiply_adds = batch_size * count_multiply_adds(receiver.suffix(layer), shape)
    most = PASS_MULTIPLY_ADDS[resources.device] / max(1, multiply_adds)
    width = 2 ** max(0, math.floor(math.log2(max(1, most))))
    return min(width, WIDEST[resources.device])


@torch.no_grad()
def count_multiply_adds(module: nn.Module, shape: Sequence[int]) -> int:
    """Count the multiply-adds of a module's convolutions and linear layers for one image.

    Args:
        module: in eval mode.
        shape: shape of its input, without the batch.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        total += output.numel() * weight[0].numel()

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    handles = [
        part.register_forward_hook(count) for part in module.modules() if isinstance(part, kinds)
    ]
    try:
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        module(torch.zeros(1, *shape, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return total
