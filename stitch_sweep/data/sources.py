"""Where images come from: a factory per data set, registered under the name a config uses.

A factory is called with the image size that is wanted (None: as it is) and returns the complete
official training and test images at that size. To add a data set, write such a function anywhere
below `stitch_sweep.data` and register it; its keyword-only parameters become its options.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from stitch_sweep.data.decoding import decode, resize, stack
from stitch_sweep.data.images import Images
from stitch_sweep.data.splits import stratified_sample
from stitch_sweep.errors import InputError
from stitch_sweep.registry import DATASETS


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as its makers split it.

    Args:
        train: official training images.
        test: official test images, of the same shape.
        classes: name of each class; label k means `classes[k]`.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]


@DATASETS.register("digits")
def digits(image_size: int | None) -> Source:
    """Handwritten digits that come with scikit-learn: 1,797 grey images of 8x8 pixels.

    The values 0 .. 16 are scaled to 0 .. 255. There is no official test split: a stratified
    quarter, always the same 449 images, is the test set here.
    """
    from sklearn.datasets import load_digits  # here: importing it takes a second

    bundled = load_digits()
    pixels = torch.from_numpy(bundled.images).to(torch.int64)
    labels = torch.from_numpy(bundled.target).to(torch.int64)
    scaled = ((pixels * 255 + 8) // 16).to(torch.uint8)
    everything = Images(resize(scaled[:, None], image_size), labels)
    test = stratified_sample(labels, round(len(labels) / 4), "digits", "test")
    train = torch.ones(len(labels), dtype=torch.bool)
    train[test] = False
    return Source(
        everything.select(train.nonzero().flatten()),
        everything.select(test),
        tuple(str(name) for name in bundled.target_names),
    )


@DATASETS.register("cifar10")
def cifar10(image_size: int | None, *, path: str, download: bool = False) -> Source:
    """CIFAR-10 in its original binaries: 50,000 + 10,000 RGB images of 32x32 pixels."""
    return _torchvision("CIFAR10", "cifar-10-batches-py", image_size, path, download)


@DATASETS.register("cifar100")
def cifar100(image_size: int | None, *, path: str, download: bool = False) -> Source:
    """CIFAR-100 with its 100 fine classes: 50,000 + 10,000 RGB images of 32x32 pixels."""
    return _torchvision("CIFAR100", "cifar-100-python", image_size, path, download)


@DATASETS.register("mnist")
def mnist(image_size: int | None, *, path: str, download: bool = False) -> Source:
    """MNIST, handwritten digits: 60,000 + 10,000 grey images of 28x28 pixels."""
    return _torchvision("MNIST", "MNIST/raw", image_size, path, download)


@DATASETS.register("fashion_mnist")
def fashion_mnist(image_size: int | None, *, path: str, download: bool = False) -> Source:
    """Fashion-MNIST, pieces of clothing: 60,000 + 10,000 grey images of 28x28 pixels."""
    return _torchvision("FashionMNIST", "FashionMNIST/raw", image_size, path, download)


def _torchvision(
    name: str, folder: str, image_size: int | None, path: str, download: bool
) -> Source:
    from torchvision import datasets  # here: importing it takes over a second

    dataset = getattr(datasets, name)
    root = Path(path).expanduser()
    splits = []
    try:
        for train in (True, False):
            loaded = dataset(root, train=train, download=download)
            pixels = torch.as_tensor(loaded.data)
            # CIFAR comes as [N, H, W, 3], MNIST as [N, H, W]
            pixels = pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]
            labels = torch.as_tensor(loaded.targets, dtype=torch.int64)
            splits.append(Images(resize(pixels.contiguous(), image_size), labels))
    # torchvision answers damaged files with all of these
    except (RuntimeError, OSError, ValueError, AssertionError, TypeError, LookupError) as error:
        remedy = (
            "the download failed or what is there is damaged"
            if download
            else f"put the files into {root / folder}, or set download: true to fetch them there"
        )
        # Without a download torchvision says the same as we do, in its own terms.
        reason = f" ({error})" if download else ""
        raise InputError(f"data set {name}: no usable data in {root}{reason}; {remedy}") from error
    return Source(splits[0], splits[1], tuple(loaded.classes))


@DATASETS.register("image_folder")
def image_folder(image_size: int | None, *, path: str) -> Source:
    """A folder of image files: `train/<class>/*` and `test/<class>/*`.

    Classes are the folders' names in sorted order, and so are the files within a class, at any
    depth below it. Files that don't have an image's suffix, and hidden ones, are passed over.

    Args:
        image_size: required where the images differ in size or aren't square.
        path: the folder that holds `train` and `test`.

    Raises:
        InputError: a folder is missing or empty, a class occurs in `test` only, or an image can't
            be read.
    """
    root = Path(path).expanduser()
    where = f"data set image_folder: {root}"
    for folder in (root, root / "train", root / "test"):
        if not folder.is_dir():
            raise InputError(
                f"{where}: {folder} is not a folder; expected train/<class>/* and test/<class>/*"
            )
    classes = _subfolders(root / "train")
    if unknown := sorted(set(_subfolders(root / "test")) - set(classes)):
        raise InputError(
            f"{where}: test has the class {unknown[0]!r} that train lacks; allowed: "
            + ", ".join(classes)
        )
    suffixes = {s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    decoded, labels, names = [], [], []
    for split in ("train", "test"):
        present = _subfolders(root / split)
        if not present:
            raise InputError(f"{where}: {root / split} has no class folders")
        files: list[Path] = []
        label = []
        for name in present:
            found = sorted(
                file
                for file in (root / split / name).rglob("*")
                if file.suffix.lower() in suffixes and file.name[0] != "." and file.is_file()
            )
            if not found:
                raise InputError(f"{where}: {root / split / name} has no image files")
            files += found
            label += [classes.index(name)] * len(found)
        decoded.append(decode([(str(file), file) for file in files], image_size))
        labels.append(torch.tensor(label))
        names.append(tuple(file.relative_to(root).as_posix() for file in files))
    train, test = (
        Images(images, labels[k], names[k])
        for k, images in enumerate(stack(decoded[0], decoded[1], where))
    )
    return Source(train, test, tuple(classes))


def _subfolders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )
