"""Images and labels as tensors, and a data set in its three splits."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Images:
    """Labeled images of one size.

    Args:
        images: `N x C x H x W`, uint8.
        labels: `N`, int64, the class of each image.
        files: the file of each image, relative to the data set's folder; None if the images don't come
            from separate files.

    Raises:
        ValueError: a tensor has the wrong shape or type, or the number of files is not N.
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
        """Return the images at `indices` (int64 `K`), in that order."""
        files = None if self.files is None else tuple(self.files[k] for k in indices.tolist())
        return Images(self.images[indices], self.labels[indices], files)

    def to(self, device: str | torch.device, *, pixels: bool = True) -> Images:
        """Return the images on `device`; tensors that are already there are not copied.

        Args:
            device: the target device.
            pixels: False moves the labels only.
        """
        images, labels = self.images.to(device) if pixels else self.images, self.labels.to(device)
        if images is self.images and labels is self.labels:
            return self
        return Images(images, labels, self.files)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, cut into the splits of one experiment.

    Args:
        name: the name under which the data set is registered.
        train: images that train networks and stitches.
        validation: images cut from the official training images, for search and early stopping.
        test: the official test images, read once per trial.
        classes: name of each class; label k means `classes[k]`.
        mean: `C`, float32, mean of each channel in units where 255 is 1.
        std: `C`, float32, standard deviation of each channel in the same units.
        fingerprint: SHA-256 (hex) of the content; see the function `fingerprint`.
        beton_folder: folder of FFCV's files if FFCV reads the images of batches; None if they are
            taken from memory.
        notes: remarks for the user on how the data set was read, a sentence each.
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
        """Return the same data with its images on `device`; pixels that FFCV reads are not moved."""
        pixels = self.beton_folder is None
        return replace(
            self,
            train=self.train.to(device, pixels=pixels),
            validation=self.validation.to(device, pixels=pixels),
            test=self.test.to(device, pixels=pixels),
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image; H = W."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def channels(self) -> int:
        """C: 1 for grayscale images, 3 for RGB."""
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
    """Compute mean and population standard deviation of each channel.

    The sums are exact integers, so the result doesn't depend on the order of summation. A channel
    without variance gets the standard deviation 1, so that normalization maps it to 0.

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
    """Compute the SHA-256 (hex) of shapes and values: images and labels of every split, mean, std.

    The fingerprint depends on the content only, not on the path, the file format or the device.
    """
    digest = hashlib.sha256()
    tensors = [tensor for split in splits for tensor in (split.images, split.labels)]
    for tensor in (*tensors, mean, std):
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
