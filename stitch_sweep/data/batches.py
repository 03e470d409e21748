"""A batch of images, and the walk over a split in chunks of one size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from stitch_sweep.core.bounds import BatchSize

CHUNK = 256
"""Images per evaluation chunk; the last chunk is padded to it, so all kernels run on one shape."""


LEAST_STEPS = 140
"""Smallest number of steps per epoch with which `auto` prefers larger batches."""
SMALLEST_BATCH, LARGEST_BATCH = 16, 256
"""The limits of `auto`."""


def choose_batch_size(batch_size: BatchSize, images: int) -> int:
    """Return the number of images per batch.

    `auto` is the largest power of 2 from `SMALLEST_BATCH` to `LARGEST_BATCH` with which an epoch has at
    least `LEAST_STEPS` steps; `SMALLEST_BATCH` if there is none.

    Args:
        batch_size: `auto`, or the number itself.
        images: number of training images.

    Example:
        >>> choose_batch_size("auto", 9_000)
        64
    """
    if batch_size != "auto":
        return batch_size
    size = LARGEST_BATCH
    while size > SMALLEST_BATCH and -(-images // size) < LEAST_STEPS:
        size //= 2
    return size


class Batch(NamedTuple):
    """B images of one split on the loader's device: a training batch, or a chunk for evaluation.

    Attributes:
        images: float32 `B x C x H x W`, normalized; augmented in training.
        labels: int64 `B`.
        indices: int64 `B`, positions in the split.
        split: name of the split; together with its index in the split it identifies an image.
        valid: number of leading rows that count. The rest of a chunk is padding; a training batch has
            none.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    split: str
    valid: int


def padded_chunks(
    count: int,
    device: torch.device | str | None = None,
    chunk: int = CHUNK,
    *,
    limit: int | None = None,
    order: Tensor | None = None,
) -> Iterator[tuple[Tensor, int]]:
    """Walk over the positions 0 to count - 1, or a sample of them, in chunks of one size.

    All chunks have one size because the size of a batch can change the last bits of a network's output.

    Args:
        count: number of positions.
        device: where the positions are made.
        chunk: positions per chunk, positive.
        limit: size of the sample, positive. It is spread evenly over all positions, because images may
            be sorted by class. None, or at least `count`, for all positions.
        order: int64 `count`, a permutation of the positions; None for ascending positions.

    Yields:
        Positions, int64 `chunk`; the last chunk is padded with positions from the beginning. Beside
        them the number of leading rows that are valid.
    """
    size = count if limit is None else min(limit, count)
    for first in range(0, size, chunk):
        numbers = torch.arange(first, first + chunk, device=device) % size
        positions = numbers * count // size
        yield positions if order is None else order.to(device)[positions], min(chunk, size - first)
