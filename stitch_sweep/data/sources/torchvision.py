"""Data sets in their original binary files, read by torchvision."""

from __future__ import annotations

from pathlib import Path

import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.decoding import resize
from stitch_sweep.data.images import Images
from stitch_sweep.data.sources.base import Source


@DATASETS.register("cifar10")
def cifar10(image_size: int | None, *, path: str, download: bool = False) -> Source:
    """CIFAR-10 in its original binaries: 50,000 + 10,000 RGB images of 32x32 pixels."""
    return _load("CIFAR10", "cifar-10-batches-py", image_size, path, download)


@DATASETS.register("cifar100")
def cifar100(image_size: int | None, *, path: str, download: bool = False) -> Source:
    """CIFAR-100 with its 100 fine classes: 50,000 + 10,000 RGB images of 32x32 pixels."""
    return _load("CIFAR100", "cifar-100-python", image_size, path, download)


@DATASETS.register("mnist")
def mnist(image_size: int | None, *, path: str, download: bool = False) -> Source:
    """MNIST, handwritten digits: 60,000 + 10,000 grayscale images of 28x28 pixels."""
    return _load("MNIST", "MNIST/raw", image_size, path, download)


@DATASETS.register("fashion_mnist")
def fashion_mnist(image_size: int | None, *, path: str, download: bool = False) -> Source:
    """Fashion-MNIST, pieces of clothing: 60,000 + 10,000 grayscale images of 28x28 pixels."""
    return _load("FashionMNIST", "FashionMNIST/raw", image_size, path, download)


def _load(name: str, folder: str, image_size: int | None, path: str, download: bool) -> Source:
    """Load a data set of torchvision.

    Args:
        name: class in `torchvision.datasets`.
        folder: folder in which torchvision expects the files, relative to `path`.
        image_size: see `resize`.
        path: folder that contains `folder`.
        download: whether torchvision may download missing files.

    Raises:
        InputError: the files are missing or damaged, or the download failed.
    """
    from torchvision import datasets  # not at the top: torchvision takes over a second to import

    dataset = getattr(datasets, name)
    root = Path(path).expanduser()
    splits = []
    try:
        for train in (True, False):
            loaded = dataset(root, train=train, download=download)
            pixels = torch.as_tensor(loaded.data)
            # CIFAR has the shape [N, H, W, 3], MNIST [N, H, W].
            pixels = pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]
            labels = torch.as_tensor(loaded.targets, dtype=torch.int64)
            splits.append(Images(resize(pixels.contiguous(), image_size), labels))
    # torchvision raises any of these for damaged files.
    except (RuntimeError, OSError, ValueError, AssertionError, TypeError, LookupError) as error:
        remedy = (
            "the download failed or the existing files are damaged"
            if download
            else f"put the files into {root / folder}, or set download: true to fetch them there"
        )
        # Without a download, torchvision's error repeats this message.
        reason = f" ({error})" if download else ""
        raise InputError(f"data set {name}: no usable data in {root}{reason}; {remedy}") from error
    return Source(splits[0], splits[1], tuple(loaded.classes))
