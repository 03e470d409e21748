"""The width of a pack: `resources.pack`, or a width chosen from the size of the receiver's rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.core.bounds import BatchSize
from stitch_sweep.data.batches import choose_batch_size
from stitch_sweep.networks import construction
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.plan.prepare import Prepared

WIDEST: Mapping[str, int] = {"cpu": 8, "cuda": 32}
"""Largest width that `auto` chooses, by device."""
PASS_MULTIPLY_ADDS: Mapping[str, float] = {"cpu": 3e8, "cuda": 2e10}
"""Largest number of multiply-adds of a forward pass for which `auto` chooses a wider pack, by device. On
a CPU, much larger passes lose more in its caches than they save (docs/evidence/benchmarks.md). The values
for GPUs are not measured."""


class PackWidths:
    """The widths of a configuration's packs.

    Args:
        prepared: the configuration. Its receivers are built with untrained weights, and only for `auto`.

    Example:
        >>> PackWidths(prepared).width("b", 3, batch_size=64)
        8
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._count = cache(self._count_after_layer)

    def width(self, receiver: str, layer: int, batch_size: BatchSize) -> int:
        """Return the number of places in the packs of one receiver layer.

        Args:
            receiver: name of the network that continues after `layer`.
            layer: -1 (the image) or a layer's index.
            batch_size: images per training batch of a stitch, or `auto`.
        """
        resources = self._prepared.config.resources
        if resources.pack != "auto":
            return resources.pack
        images = choose_batch_size(batch_size, len(self._prepared.data.train))
        return choose_width(resources.device, images * self._count(receiver, layer))

    @property
    def widest(self) -> int:
        """Upper limit of the number of places of a pack."""
        resources = self._prepared.config.resources
        return WIDEST[resources.device] if resources.pack == "auto" else resources.pack

    def _count_after_layer(self, receiver: str, layer: int) -> int:
        prepared = self._prepared
        config = next(n for n in prepared.config.networks if n.name == receiver)
        module = construction.build(config, prepared.data)
        network = FrozenNetwork(module, receiver, config.cuts)
        return count_multiply_adds(network.suffix(layer), prepared.shape(receiver, layer))


def choose_width(device: str, multiply_adds: int) -> int:
    """Return the width that `auto` stands for.

    It is the largest power of 2 with which a forward pass of the receiver's rest has at most
    `PASS_MULTIPLY_ADDS`, within 1 and `WIDEST`. It is never chosen from measured times, because the width
    changes the last bits of results.

    Args:
        device: `cpu` or `cuda`.
        multiply_adds: of a forward pass of the rest for one stitch's batch.
    """
    most = PASS_MULTIPLY_ADDS[device] / max(1, multiply_adds)
    return min(2 ** max(0, math.floor(math.log2(max(1.0, most)))), WIDEST[device])


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
