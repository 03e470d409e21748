"""Batches of a split: their images, order and augmentation are functions of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.seeding import generator
from stitch_sweep.data.augmentation import AUGMENTATIONS, normalize_images
from stitch_sweep.data.batches import CHUNK, Batch, padded_chunks
from stitch_sweep.data.images import Images


class Loader:
    """Normalized batches of one split.

    The order and the augmentation of an epoch depend on `seed` and the epoch only. An image doesn't
    depend on batch size, device or process, nor on the batch at which an epoch is resumed.

    Args:
        images: the split, `N x C x H x W` uint8; moved to `device` once.
        mean: `C`, float32, as in `Data.mean`.
        std: `C`, float32, as in `Data.std`.
        batch_size: images per training batch; the last batch of an epoch may have fewer.
        seed: the sweep's seed.
        augment: a name in `AUGMENTATIONS`.
        device: the device that stores the images and makes the batches.
        split: name of the split; together with its number in the split it identifies an image.

    Raises:
        InputError: no augmentation is named `augment`.
        ValueError: there is no image, or `batch_size` isn't positive.

    Example:
        >>> loader = Loader(data.train, data.mean, data.std, batch_size=128, seed=0)
        >>> for batch in loader.batches(epoch=0):
        ...     logits = network(batch.images)
    """

    pixels_on_device: ClassVar[bool] = True
    """Whether the device stores the pixels of the whole split; else it receives them batch by batch."""

    def __init__(
        self,
        images: Images,
        mean: Tensor,
        std: Tensor,
        *,
        batch_size: int,
        seed: int,
        augment: str = "none",
        device: str | torch.device = "cpu",
        split: str = "train",
    ) -> None:
        if augment not in AUGMENTATIONS:
            raise InputError(
                f"data.augment is {augment!r}, which is not an augmentation: "
                f"{nearest(augment, AUGMENTATIONS)}"
            )
        if len(images) == 0 or batch_size < 1:
            raise ValueError(f"{len(images)} images in batches of {batch_size} can't be loaded")
        self.images = images.to(device, pixels=self.pixels_on_device)
        self.mean = mean.to(device)
        self.std = std.to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.device = torch.device(device)
        self.split = split

    def __len__(self) -> int:
        """Return the number of batches per epoch, including a partial last batch."""
        return -(-len(self.images) // self.batch_size)

    def indices(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Iterate over the `indices` of `batches(epoch, start)` without reading any image.

        Args:
            epoch: counted from 0.
            start: first batch of the epoch to return, 0 .. `len(self)`.

        Yields:
            int64 `B` on the loader's device.

        Raises:
            ValueError: `start` is out of range.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start is {start}; an epoch has batches 0 to {len(self) - 1}")
        shuffled = torch.randperm(len(self.images), generator=generator(self.seed, "order", epoch))
        remaining = shuffled[start * self.batch_size :].to(self.device)
        # split() of an empty tensor returns one empty batch.
        yield from remaining.split(self.batch_size) if len(remaining) else ()

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of an epoch: shuffled, augmented and normalized.

        Args:
            epoch: counted from 0.
            start: first batch of the epoch to return, 0 .. `len(self)`; the batches equal those of
                a full epoch from there on.

        Raises:
            ValueError: `start` is out of range.
        """
        augmentation = AUGMENTATIONS[self.augment]
        draws = augmentation.draw_epoch(
            len(self.images), self.images.images.shape[-1], self.seed, epoch
        ).to(self.device)
        groups = list(self.indices(epoch, start))
        for indices, pixels in zip(groups, self.read(groups), strict=True):
            augmented = augmentation.apply(pixels, draws[indices])
            yield self._batch(augmented, indices, len(indices))

    def in_order(
        self, chunk: int = CHUNK, *, limit: int | None = None, order: Tensor | None = None
    ) -> Iterator[Batch]:
        """Iterate over images in stored or another order, without augmentation, in chunks of one size.

        The last chunk is padded with images from the beginning: see `padded_chunks`.

        Args:
            chunk: images per chunk, positive.
            limit: number of images, spread evenly over the split; None for all.
            order: int64 `N`, a permutation of the images; None for the stored order.
        """
        chunks = list(padded_chunks(len(self.images), self.device, chunk, limit=limit, order=order))
        groups = [indices for indices, _ in chunks]
        for (indices, valid), pixels in zip(chunks, self.read(groups), strict=True):
            yield self._batch(pixels, indices, valid)

    def read(self, groups: Sequence[Tensor]) -> Iterator[Tensor]:
        """Iterate over the images at each group of positions, neither augmented nor normalized.

        Args:
            groups: int64 `B` each, positions in the split.

        Yields:
            uint8 `B x C x H x W` on the device; the next group may overwrite it.
        """
        for positions in groups:
            yield self.images.images[positions]

    def _batch(self, pixels: Tensor, indices: Tensor, valid: int) -> Batch:
        images = normalize_images(pixels, self.mean, self.std)
        return Batch(images, self.images.labels[indices], indices, self.split, valid)
