"""A folder of image files, one folder per class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.decoding import decode, stack_splits
from stitch_sweep.data.images import Images
from stitch_sweep.data.names import join_names, normalize_name
from stitch_sweep.data.sources.base import OFFICIAL_SPLITS, Source
from stitch_sweep.data.sources.folder_scan import FolderScan


@DATASETS.register("image_folder")
def image_folder(image_size: int | None, *, path: str) -> Source:
    """Read a folder of image files: `train/<class>/*` and `test/<class>/*`.

    Classes are the names of the folders in sorted order. The files of a class are sorted by path, at any
    depth. Symbolic links are followed. Stitch Sweep ignores files without the suffix of an image, hidden
    files and folders, and folders into which other tools put copies, such as `#recycle`. Class names of
    `train` and `test` are compared in Unicode form NFC.

    Args:
        image_size: required if the images differ in size or aren't square.
        path: the folder that contains `train` and `test`.

    Raises:
        InputError: a folder is missing, empty or unreadable; a link leads nowhere or to a folder that
            contains it; a class occurs in `test` only; two folders of a split have the same name in
            different Unicode forms; or an image can't be read.
    """
    root = Path(path).expanduser()
    data_set = f"data set image_folder: {root}"
    for folder in (root, *(root / split for split in OFFICIAL_SPLITS)):
        if not folder.is_dir():
            raise InputError(
                f"{data_set}: {folder} is not a folder; expected train/<class>/* and test/<class>/*"
            )
    scan = FolderScan(root, data_set)
    folders = {split: scan.find_classes(split) for split in OFFICIAL_SPLITS}
    scan.raise_problems()
    labels_by_name, notes = _match_classes(folders, data_set)
    files: dict[str, list[Path]] = {split: [] for split in OFFICIAL_SPLITS}
    labels: dict[str, list[int]] = {split: [] for split in OFFICIAL_SPLITS}
    for split, classes in folders.items():
        if not classes:
            raise InputError(f"{data_set}: {root / split} has no class folders")
        for name in classes:
            images = scan.find_images(split, name)
            if not images and not scan.problems:
                raise InputError(f"{data_set}: {root / split / name} has no image files")
            files[split] += images
            labels[split] += [labels_by_name[normalize_name(name)]] * len(images)
    scan.raise_problems()
    decoded = {
        split: decode([(str(file), file) for file in files[split]], image_size)
        for split in OFFICIAL_SPLITS
    }
    train, test = (
        Images(
            images,
            torch.tensor(labels[split]),
            tuple(file.relative_to(root).as_posix() for file in files[split]),
        )
        for split, images in stack_splits(decoded, data_set).items()
    )
    return Source(train, test, tuple(folders["train"]), (*notes, *scan.notes()))


def _match_classes(
    folders: dict[str, list[str]], data_set: str
) -> tuple[dict[str, int], list[str]]:
    """Match the class folders of both splits, and return labels by normalized name, and notes.

    Raises:
        InputError: two folders of a split have the same name in different Unicode forms, or a class
            occurs in `test` only.
    """
    classes, notes = folders["train"], []
    labels_by_name = {normalize_name(name): label for label, name in enumerate(classes)}
    for split, names in folders.items():
        for name, count in Counter(map(normalize_name, names)).items():
            if count > 1:
                raise InputError(
                    f"{data_set}: {split} has {count} folders named {name!r} that differ in Unicode "
                    "normalization only (NFC or NFD); move their images into one folder"
                )
    for name in folders["test"]:
        if normalize_name(name) not in labels_by_name:
            raise InputError(
                f"{data_set}: test has the class {name!r}, which train lacks; allowed: "
                + join_names(classes, 20)
            )
        if name not in classes:
            notes.append(
                f"{data_set}: the class {normalize_name(name)!r} is spelled in two Unicode forms in "
                "train and test (NFC and NFD); both are read as one class"
            )
    return labels_by_name, notes
