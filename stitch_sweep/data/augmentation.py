"""Normalization and augmentation: batched tensor code on the device where the images are.

An augmentation has two halves. `draw` makes the random numbers of a whole epoch on the CPU, one row
per image of the split; `apply` uses the rows of a batch. An image is therefore changed in the same way
at any batch size, on any device, and after a restart in the middle of an epoch.

Alternating flips are those of Jordan 2024 (arXiv 2404.00498): the flips of the first epoch are random,
and every later epoch inverts those of the epoch before. Any two successive epochs show each image in
both orientations, which independent flips do for half of the images only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stitch_sweep.core.seeding import generator


@dataclass(frozen=True)
class Augmentation:
    """A random change of images.

    Args:
        draw: (number of images N, image size, CPU generator) -> int64 `N x K`, a row per image.
        apply: (uint8 `B x C x H x W`, rows int64 `B x K` on the same device) -> uint8, same shape.
        alternating: whether the last number of a row is a flip that every epoch inverts.
    """

    draw: Callable[[int, int, torch.Generator], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor]
    alternating: bool = False

    def draw_epoch(self, count: int, size: int, seed: int, epoch: int) -> Tensor:
        """Draw the rows of an epoch, which depend on the arguments only.

        Args:
            count: number of images N.
            size: height and width in pixels.
            seed: the sweep's seed.
            epoch: counted from 0.

        Returns:
            `N x K`, int64, on the CPU.
        """
        draws = self.draw(count, size, generator(seed, "augment", epoch))
        if self.alternating:
            first = self.draw(count, size, generator(seed, "augment", 0))
            draws[:, -1] = (first[:, -1] + epoch) % 2
        return draws


def normalize_images(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Compute (images / 255 - mean) / std per channel.

    Args:
        images: `B x C x H x W`, uint8.
        mean: `C`, float32, in units where 255 is 1.
        std: `C`, float32, in the same units.

    Returns:
        `B x C x H x W`, float32, on the device of `images`.
    """
    # Each step rounds once: a fused multiply-add may round differently by position in the batch.
    scaled = images.to(torch.float32).div_(255)
    return scaled.sub_(mean[:, None, None]).div_(std[:, None, None])


def _draw_nothing(count: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.empty(count, 0, dtype=torch.int64)


def _keep_images(images: Tensor, draws: Tensor) -> Tensor:
    return images


def draw_crop_flip(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw rows (top, left, flip) for `crop_flip`.

    `top` and `left` are a window's corner in the padded image, each in 0 .. 2 (size // 8); `flip` is
    0 or 1.

    Args:
        count: number of images N.
        size: height and width in pixels.
        generator: CPU generator of the random numbers.

    Returns:
        `N x 3`, int64.
    """
    corners = torch.randint(2 * (size // 8) + 1, (count, 2), generator=generator)
    flips = torch.randint(2, (count, 1), generator=generator)
    return torch.cat([corners, flips], dim=1)


def crop_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Pad each side by size // 8 black pixels, crop to the original size, and mirror where drawn.

    The padding is 0 among the uint8 values: black, not the mean after normalization.

    Args:
        images: `B x C x H x W`, uint8, H = W.
        draws: `B x 3`, int64, rows of `draw_crop_flip`.

    Returns:
        `B x C x H x W`, uint8.
    """
    count, channels, size, _ = images.shape
    padding = size // 8
    padded = functional.pad(images, (padding, padding, padding, padding))
    offsets = torch.arange(size, device=images.device)
    top, left, flip = (draws[:, k, None] for k in range(3))
    rows = top + offsets
    columns = left + torch.where(flip.bool(), offsets.flip(0), offsets)
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def draw_flip(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw a row (flip) for each image, 0 or 1.

    Args:
        count: number of images N.
        size: height and width in pixels.
        generator: CPU generator of the random numbers.

    Returns:
        `N x 1`, int64.
    """
    return torch.randint(2, (count, 1), generator=generator)


def flip_images(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror images where drawn.

    Args:
        images: `B x C x H x W`, uint8.
        draws: `B x 1`, int64, rows of `draw_flip`.

    Returns:
        `B x C x H x W`, uint8.
    """
    return torch.where(draws[:, :, None, None].bool(), images.flip(-1), images)


AUGMENTATIONS = {
    "none": Augmentation(_draw_nothing, _keep_images),
    "crop_flip": Augmentation(draw_crop_flip, crop_flip),
    "alternating_flip": Augmentation(draw_flip, flip_images, alternating=True),
    "crop_alternating_flip": Augmentation(draw_crop_flip, crop_flip, alternating=True),
}
