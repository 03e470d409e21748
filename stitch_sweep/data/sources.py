"""Where images come from: a factory per data set, registered under the name a config uses.

A factory is called with the image size that is wanted (None: as it is) and returns the complete
official training and test images at that size. To add a data set, write such a function anywhere
below `stitch_sweep.data` and register it; its keyword-only parameters become its options.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.decoding import decode, resize, stack
from stitch_sweep.data.images import Images
from stitch_sweep.data.scanning import SPLITS, FolderScan, listed, normalized
from stitch_sweep.data.splits import stratified_sample


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as its makers split it.

    Args:
        train: official training images.
        test: official test images, of the same shape.
        classes: name of each class; label k means `classes[k]`.
        notes: what a user should know of how the files were read, a sentence each.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


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
    depth below it; symbolic links are followed. Files that don't have an image's suffix are passed
    over, and so are hidden files and folders, and folders where other tools keep copies. Class names
    of `train` and `test` are compared in Unicode's form NFC.

    Args:
        image_size: required where the images differ in size or aren't square.
        path: the folder that holds `train` and `test`.

    Raises:
        InputError: a folder is missing, empty or unreadable, a link leads nowhere or to a folder
            that contains it, a class occurs in `test` only, two folders of a split are spelled the
            same, or an image can't be read.
    """
    root = Path(path).expanduser()
    where = f"data set image_folder: {root}"
    for folder in (root, root / "train", root / "test"):
        if not folder.is_dir():
            raise InputError(
                f"{where}: {folder} is not a folder; expected train/<class>/* and test/<class>/*"
            )
    scan = FolderScan(root, where)
    folders = {split: scan.classes(split) for split in SPLITS}
    scan.check()
    classes, notes = folders["train"], []
    label_of = {normalized(name): label for label, name in enumerate(classes)}
    for split, names in folders.items():
        for name, count in Counter(map(normalized, names)).items():
            if count > 1:
                raise InputError(
                    f"{where}: {split} has {count} folders named {name!r} that differ in Unicode "
                    "normalization only (NFC or NFD); put their images into one"
                )
    for name in folders["test"]:
        if normalized(name) not in label_of:
            raise InputError(
                f"{where}: test has the class {name!r} that train lacks; allowed: "
                + listed(classes, 20)
            )
        if name not in classes:
            notes.append(
                f"{where}: the class {normalized(name)!r} is spelled in two Unicode forms in train and "
                "test (NFC and NFD); it is taken for one class"
            )
    files: dict[str, list[Path]] = {split: [] for split in SPLITS}
    labels: dict[str, list[int]] = {split: [] for split in SPLITS}
    for split, present in folders.items():
        if not present:
            raise InputError(f"{where}: {root / split} has no class folders")
        for name in present:
            found = scan.images(split, name)
            if not found and not scan.problems:
                raise InputError(f"{where}: {root / split / name} has no image files")
            files[split] += found
            labels[split] += [label_of[normalized(name)]] * len(found)
    scan.check()
    train_images, test_images = (
        decode([(str(file), file) for file in files[split]], image_size) for split in SPLITS
    )
    train, test = (
        Images(
            images,
            torch.tensor(labels[split]),
            tuple(file.relative_to(root).as_posix() for file in files[split]),
        )
        for split, images in zip(SPLITS, stack(train_images, test_images, where), strict=True)
    )
    return Source(train, test, tuple(classes), (*notes, *scan.notes()))
