"""Batches: which images, in which order, changed how, as functions of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.seeding import generator
from stitch_sweep.data.augmentation import AUGMENTATIONS, normalise
from stitch_sweep.data.images import Images


class Batch(NamedTuple):
    """A training batch; all three live on the loader's device.

    `indices` (int64 `B`) are positions in the split, `images` float32 `B x C x H x W` normalised,
    `labels` int64 `B`.
    """

    indices: Tensor
    images: Tensor
    labels: Tensor


class Chunk(NamedTuple):
    """A chunk for evaluation, padded to its full size; only the first `valid` rows count.

    `images` float32 `chunk x C x H x W` normalised, `labels` int64 `chunk`.
    """

    images: Tensor
    labels: Tensor
    valid: int


class Loader:
    """Normalised batches of one split.

    The order of an epoch and its augmentation depend on `seed` and the epoch alone: neither batch
    size, device, process nor where in the epoch one starts changes what happens to an image.

    Args:
        images: the split, `N x C x H x W` uint8; moved to `device` once.
        mean: `C`, float32, as in `Data.mean`.
        std: `C`, float32, as in `Data.std`.
        batch_size: images per training batch; the last batch of an epoch may have fewer.
        seed: the sweep's seed.
        augment: a name in `AUGMENTATIONS`.
        device: where images are kept and batches are made.
        split: what the split is called; an image's number in it and this name say which image it is.

    Raises:
        InputError: no augmentation is named `augment`.
        ValueError: there is no image, or `batch_size` isn't positive.

    Example:
        >>> loader = Loader(data.train, data.mean, data.std, batch_size=128, seed=0)
        >>> for indices, x, y in loader.batches(epoch=0): ...
    """

    pixels_on_device: ClassVar[bool] = True
    """Whether the whole split's pixels are kept on the device, or each batch's are sent there."""

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
                f"data.augment is {augment!r}, no augmentation: {nearest(augment, AUGMENTATIONS)}"
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
        """Batches per epoch, a partial one included."""
        return -(-len(self.images) // self.batch_size)

    def indices(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The `indices` of `batches(epoch, start)`, without touching an image.

        Args:
            epoch: counted from 0.
            start: first batch of the epoch to give, 0 .. `len(self)`.

        Yields:
            int64 `B` on the loader's device.

        Raises:
            ValueError: `start` is out of range.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start is {start}; an epoch has batches 0 to {len(self) - 1}")
        shuffled = torch.randperm(len(self.images), generator=generator(self.seed, "order", epoch))
        # split() of nothing would give one empty batch
        rest = shuffled[start * self.batch_size :].to(self.device)
        yield from rest.split(self.batch_size) if len(rest) else ()

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, shuffled, augmented and normalised.

        Args:
            epoch: counted from 0.
            start: first batch of the epoch to give, 0 .. `len(self)`; the batches are those a full
                epoch would have given from there.

        Raises:
            ValueError: `start` is out of range.
        """
        augmentation = AUGMENTATIONS[self.augment]
        draws = augmentation.draw(
            len(self.images),
            self.images.images.shape[-1],
            generator(self.seed, "augment", epoch),
        ).to(self.device)
        groups = list(self.indices(epoch, start))
        for indices, pixels in zip(groups, self.read(groups), strict=True):
            changed = augmentation.apply(pixels, draws[indices])
            yield Batch(
                indices, normalise(changed, self.mean, self.std), self.images.labels[indices]
            )

    def in_order(self, chunk: int) -> Iterator[Chunk]:
        """All images in stored order, neither shuffled nor augmented, in chunks of one size.

        One size for all, because the size of a batch may move the last bits of what a network
        computes. The last chunk is filled up with images from the beginning.

        Args:
            chunk: images per chunk, positive.
        """
        count = len(self.images)
        padded = torch.arange(-(-count // chunk) * chunk, device=self.device) % count
        groups = list(padded.split(chunk))
        for k, (positions, pixels) in enumerate(zip(groups, self.read(groups), strict=True)):
            yield Chunk(
                normalise(pixels, self.mean, self.std),
                self.images.labels[positions],
                min(chunk, count - k * chunk),
            )

    def read(self, groups: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images at each group of positions, neither augmented nor normalised.

        Args:
            groups: int64 `B` each, positions in the split.

        Yields:
            uint8 `B x C x H x W` on the device; what comes next may overwrite it.
        """
        for positions in groups:
            yield self.images.images[positions]
