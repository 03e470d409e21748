"""Representations of a whole split, in chunks of the evaluation's size."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from stitch_sweep.plan.cells import Cell
from stitch_sweep.training.representations import representation_chunks
from stitch_sweep.training.workbench import Workbench


def represent(
    bench: Workbench, role: str, name: str, layer: int, split: str
) -> Iterator[tuple[Tensor, int]]:
    """Yield a layer's representations of a whole split in stored order, in padded chunks.

    Args:
        bench: the networks.
        role: key under which the workbench caches the representations if they are small enough.
        name: the network, or the class-only sender.
        layer: -1 for the image.
        split: train, validation or test.

    Yields:
        As `representation_chunks` does.
    """
    loader = bench.loaders()[split]
    return representation_chunks(bench.cache, role, bench.senders[name], layer, loader)


def cell_chunks(bench: Workbench, cell: Cell, split: str) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield the inputs of a cell's stitch and the receiver's expected representations, in chunks.

    Yields:
        [`CHUNK`, *sender shape], [`CHUNK`, *receiver shape], and the number of valid leading rows.
    """
    sent = represent(bench, "sender", cell.sender, cell.sender_layer, split)
    expected = represent(bench, "expected", cell.receiver, cell.receiver_layer, split)
    for (sent_chunk, valid), (expected_chunk, _) in zip(sent, expected, strict=True):
        yield sent_chunk, expected_chunk, valid
