"""Images and labels as tensors, and the three splits of a data set."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images of one size.

    Args:
        images: `N x C x H x W`, uint8.
        labels: `N`, int64, the class of each image.
        files: where each image was read from, relative to the data set's folder; None where images
            don't come in files of their own.

    Raises:
        ValueError: a tensor has another shape or type, or there are not as many files.
    """

    images: Tensor
    labels: Tensor
    files: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                f"images must be uint8 [N, C, H, W], not {self.images.dtype} "
                f"{list(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 [{len(self.images)}], not {self.labels.dtype} "
                f"{list(self.labels.shape)}"
            )
        if self.files is not None and len(self.files) != len(self.labels):
            raise ValueError(f"{len(self.files)} files for {len(self.labels)} images")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> Images:
        """The images at `indices` (int64 `K`), in that order."""
        files = None if self.files is None else tuple(self.files[k] for k in indices.tolist())
        return Images(self.images[indices], self.labels[indices], files)

    def to(self, device: str | torch.device, *, pixels: bool = True) -> Images:
        """The same images on `device`; nothing is copied when they are there already.

        Args:
            device: where to.
            pixels: False moves the labels alone.
        """
        images, labels = self.images.to(device) if pixels else self.images, self.labels.to(device)
        if images is self.images and labels is self.labels:
            return self
        return Images(images, labels, self.files)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, cut into the splits of one experiment.

    Args:
        name: what it is registered as.
        train: what networks and stitches learn from.
        validation: cut from the official training images; search and early stopping see it.
        test: the official test images, read once per trial.
        classes: name of each class; label k means `classes[k]`.
        mean: `C`, float32, mean of each channel in units where 255 is 1.
        std: `C`, float32, standard deviation of each channel in the same units.
        fingerprint: SHA-256 (hex) of the content; see `fingerprint`.
        beton_folder: where FFCV's files are kept if it is FFCV that reads the images for batches;
            None if they are taken from memory.
        notes: what a user should know of how the data set was read, a sentence each.
    """

    name: str
    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    fingerprint: str
    beton_folder: str | None = None
    notes: tuple[str, ...] = ()

    def to(self, device: str | torch.device) -> Data:
        """The same data, its images on `device`; pixels that FFCV reads stay where they are."""
        pixels = self.beton_folder is None
        splits: dict[str, Any] = {
            split: getattr(self, split).to(device, pixels=pixels) for split in SPLITS
        }
        return replace(self, **splits)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image; H = W."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def channels(self) -> int:
        """C: 1 for grey images, 3 for RGB."""
        return self.image_shape[0]

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.image_shape[1]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation per channel.

    The sums are integers, so the result depends on no order of summation. A channel without
    variance gets the standard deviation 1, which leaves it at 0 when it is normalised.

    Args:
        images: `N x C x H x W`, uint8, at least one pixel.

    Returns:
        mean and std, each `C`, float32, in units where 255 is 1.
    """
    means, stds = [], []
    for channel in images.unbind(1):
        histogram = torch.bincount(channel.flatten(), minlength=256).tolist()
        count = sum(histogram)
        total = sum(value * n for value, n in enumerate(histogram))
        squares = sum(value * value * n for value, n in enumerate(histogram))
        means.append(total / count / 255)
        stds.append(math.sqrt(count * squares - total * total) / count / 255 or 1.0)
    return torch.tensor(means), torch.tensor(stds)


def fingerprint(splits: tuple[Images, ...], mean: Tensor, std: Tensor) -> str:
    """SHA-256 (hex) over shapes and values of images and labels of every split, mean and std.

    A function of the content alone: not of the path, the file format, or the device.
    """
    digest = hashlib.sha256()
    tensors = [tensor for split in splits for tensor in (split.images, split.labels)]
    for tensor in (*tensors, mean, std):
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
