"""Arrays of NumPy: one `.npz` file, or a folder of `.npy` files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.core.untrusted import printable
from stitch_sweep.data.names import explain_unusable, join_names
from stitch_sweep.data.raw_images import RawImages, make_source
from stitch_sweep.data.sources.base import Source

_SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
}
_PATTERNS = (
    ("{split}_images", "{split}_labels"),
    ("x_{split}", "y_{split}"),
    ("X_{split}", "y_{split}"),
    ("{split}_x", "{split}_y"),
    ("images", "labels"),
    ("x", "y"),
    ("X", "y"),
)
"""Names of images and labels that "auto" tries, in this order."""
_CLASSES = "classes"

Arrays = Mapping[str, Callable[[], np.ndarray]]
"""The arrays of a file or folder by name, each read when it is called."""


@DATASETS.register("numpy")
def numpy(
    image_size: int | None, *, path: str, image_key: str = "auto", label_key: str = "auto"
) -> Source:
    """Read arrays from an `.npz` file, or memory-mapped from a folder of `.npy` files.

    Images are `N x C x H x W`, `N x H x W x C` or `N x H x W`: whole numbers from 0 to 255, or floats.
    Labels are `N` or `N x 1`: whole numbers or text. An optional text array `classes` contains the class
    names. `{split}` in a key stands for `train`, for `test`, and, if there are official validation
    images, for `validation`, `val` or `valid`. If the keys contain no `{split}`, a fixed stratified
    quarter of the images serves as the test split.

    Args:
        image_size: required if the images aren't square.
        path: an `.npz` file, or a folder whose `.npy` files are named after the keys.
        image_key: "auto" selects `{split}_images`, `x_{split}`, `X_{split}`, `{split}_x`, `images`, `x`
            or `X`.
        label_key: "auto" selects the labels that belong to the images: for example `{split}_labels` or
            `y_{split}`.

    Raises:
        InputError: the file can't be read or contains pickled objects, an array is missing, or images or
            labels can't be used.
    """
    data_set = f"data set numpy: {printable(path)}"
    root = Path(path).expanduser()
    if root.is_dir():
        arrays = _open_folder(root)
        return _read(arrays, image_key, label_key, image_size, data_set)
    if reason := explain_unusable(root) if root.is_symlink() or root.exists() else "does not exist":
        raise InputError(f"{data_set} {reason}; allowed: an .npz file, or a folder of .npy files")
    try:
        opened = np.load(root, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise InputError(f"{data_set} is one array; name the folder of the .npy files")
        with opened:
            arrays = {key: partial(opened.__getitem__, key) for key in opened.files}
            return _read(arrays, image_key, label_key, image_size, data_set)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(_explain(error, data_set)) from error


def _open_folder(root: Path) -> Arrays:
    def map_file(file: Path) -> np.ndarray:
        try:
            if reason := explain_unusable(file):
                raise InputError(f"{printable(file)} {reason}")
            array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(_explain(error, printable(file))) from error
        return array

    return {file.stem: partial(map_file, file) for file in sorted(root.glob("*.npy"))}


def _explain(error: Exception, place: str) -> str:
    if any(word in str(error) for word in ("allow_pickle", "pickled", "Python objects in dtype")):
        return (
            f"{place}: contains pickled Python objects, which can run code and are not read; store "
            "plain numbers and text, such as array.astype('uint8') or names.astype(str)"
        )
    return f"{place} can't be read as arrays of NumPy: {printable(error)}"


def _read(
    arrays: Arrays, image_key: str, label_key: str, image_size: int | None, data_set: str
) -> Source:
    image_pattern, label_pattern = _choose_patterns(arrays, image_key, label_key, data_set)
    splits = {}
    for split, names in _SPLIT_NAMES.items():
        for name in names if "{split}" in image_pattern else names[: split == "train"]:
            key = image_pattern.replace("{split}", name)
            if key in arrays:
                labels = label_pattern.replace("{split}", name)
                if labels not in arrays:
                    raise InputError(_missing("label_key", [labels], arrays, data_set))
                splits[split] = RawImages(arrays[key](), _flatten(arrays[labels]()))
                break
    for split in ("train", "test") if "{split}" in image_pattern else ("train",):
        if split not in splits:
            key = image_pattern.replace("{split}", split)
            raise InputError(_missing("image_key", [key], arrays, data_set))
    classes = arrays[_CLASSES]().tolist() if _CLASSES in arrays else None
    can_resize = image_size is not None
    source = make_source(splits, classes, can_resize=can_resize, place=data_set)
    return source.resized(image_size)


def _choose_patterns(
    arrays: Arrays, image_key: str, label_key: str, data_set: str
) -> tuple[str, str]:
    """Return the names of images and labels; "auto" selects the first that exist."""
    if image_key != "auto" and label_key != "auto":
        if ("{split}" in image_key) != ("{split}" in label_key):
            raise InputError(
                f"{data_set}: write {{split}} into both image_key and label_key, or none"
            )
        return image_key, label_key
    tried = []
    for images, labels in _PATTERNS:
        chosen = (
            images if image_key == "auto" else image_key,
            labels if label_key == "auto" else label_key,
        )
        first = [pattern.replace("{split}", "train") for pattern in chosen]
        if all(key in arrays for key in first):
            return chosen
        tried.append(" and ".join(first))
    option = "image_key" if image_key == "auto" else "label_key"
    raise InputError(_missing(option, dict.fromkeys(tried), arrays, data_set))


def _missing(option: str, keys: Iterable[str], arrays: Arrays, data_set: str) -> str:
    there = f"set {option}; arrays are: {join_names(arrays, 20)}" if arrays else "it has no arrays"
    return f"{data_set} has no arrays named {' or '.join(map(printable, keys))}; {there}"


def _flatten(labels: np.ndarray) -> np.ndarray:
    """Return labels `N x 1` as `N`."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
