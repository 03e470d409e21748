"""Normalization and augmentation: batched tensor code on the device where the images are.

An augmentation has two halves. `draw` makes the random numbers of a whole epoch on the CPU, one row
per image of the split; `apply` uses the rows of a batch. An image is therefore changed in the same way
at any batch size, on any device, and after a restart in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """A random change of images.

    Args:
        draw: (number of images N, image size, CPU generator) -> int64 `N x K`, a row per image.
        apply: (uint8 `B x C x H x W`, rows int64 `B x K` on the same device) -> uint8, same shape.
    """

    draw: Callable[[int, int, torch.Generator], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor]


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


AUGMENTATIONS = {
    "none": Augmentation(_draw_nothing, _keep_images),
    "crop_flip": Augmentation(draw_crop_flip, crop_flip),
}
