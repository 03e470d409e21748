"""Representations of a whole split, in chunks of the evaluation's size."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stitch_sweep.measuring.networks import CHUNKED
from stitch_sweep.networks.evaluation import CHUNK
from stitch_sweep.networks.frozen import Examples
from stitch_sweep.plan.cells import Cell
from stitch_sweep.training.workbench import Workbench


@torch.no_grad()
def represent(bench: Workbench, role: str, name: str, layer: int, split: str) -> Iterator[Tensor]:
    """Yield a layer's representations of a whole split in stored order, in padded chunks.

    Args:
        bench: the networks.
        role: key under which the workbench caches the representations if they are small enough.
        name: the network, or the class-only sender.
        layer: -1 for the image.
        split: train, validation or test.

    Yields:
        [CHUNK, *shape]; the last chunk is padded with images from the beginning.
    """
    sender, loader = bench.senders[name], bench.loaders(CHUNKED)[split]
    count = len(loader.images)
    cached = bench.cache.get(f"{role} {split}", sender, layer, loader)
    if cached is not None:
        for first in range(0, count, CHUNK):
            yield cached[torch.arange(first, first + CHUNK, device=cached.device) % count]
        return
    for k, (images, labels, _) in enumerate(loader.in_order(CHUNK)):
        numbers = torch.arange(k * CHUNK, (k + 1) * CHUNK, device=images.device) % count
        yield sender.represent(layer, Examples(split, numbers, images, labels))


def cell_chunks(bench: Workbench, cell: Cell, split: str) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield the inputs of a cell's stitch and the receiver's expected representations, in chunks.

    Yields:
        [CHUNK, *sender shape], [CHUNK, *receiver shape], and the number of valid leading rows.
    """
    count = len(bench.loaders(CHUNKED)[split].images)
    sent = represent(bench, "sender", cell.sender, cell.sender_layer, split)
    expected = represent(bench, "expected", cell.receiver, cell.receiver_layer, split)
    for k, (sent_chunk, expected_chunk) in enumerate(zip(sent, expected, strict=True)):
        yield sent_chunk, expected_chunk, min(CHUNK, count - k * CHUNK)
