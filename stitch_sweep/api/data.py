"""Data that a caller gives: a name, a configuration, tensors, a torch `Dataset` or `DataLoader`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import DataLoader, Dataset

from stitch_sweep.api.loaders import read_dataset, read_loader
from stitch_sweep.api.settings import to_plain
from stitch_sweep.config.data import DataConfig
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.splits import SPLITS
from stitch_sweep.data.raw_images import RawImages, make_source
from stitch_sweep.data.sources import in_memory

_ALLOWED = (
    "the name of a data set, a mapping as in the section data of a configuration, (images, labels), a "
    "torch Dataset or DataLoader, or a mapping with one of these for train, validation and test"
)
_SETTINGS = [
    name for name in DataConfig.model_fields if name not in ("name", "loader", "beton_folder")
]


def data_section(data: Any) -> dict[str, Any]:
    """Turn a caller's data into the section `data` of a configuration.

    Images that are given as objects are kept in this process; see `data.sources.in_memory`. Without test
    images, a stratified quarter of the training images serves as test images. Without validation images,
    `val_fraction` of the training images is cut off, as in any sweep.

    Args:
        data: the name of a registered data set; a mapping as in a configuration; (images, labels); a
            `Dataset` or `DataLoader`; or a mapping with one of the last three for `train` and, where they
            exist, `validation` and `test`. That mapping may have `classes`, the names of the classes, and
            keys of the section such as `image_size` or `augment`.

    Raises:
        InputError: it is none of these, or images or labels can't be used.
    """
    if isinstance(data, str):
        return {"name": data}
    if isinstance(data, Mapping) and "name" in data:
        section: dict[str, Any] = to_plain(data)
        return section
    splits: dict[str, Any] = dict(data) if isinstance(data, Mapping) else {"train": data}
    settings = {key: value for key, value in splits.items() if key not in (*SPLITS, "classes")}
    if unknown := [key for key in settings if key not in _SETTINGS]:
        allowed = [*SPLITS, "name", "classes", *_SETTINGS]
        raise InputError(
            *(f"data: unknown key {key!r}: {nearest(key, allowed)}" for key in unknown)
        )
    if splits.get("train") is None:
        raise InputError(f"data: training images are missing; allowed: {_ALLOWED}")
    parts = {
        split: _read_split(splits[split], f"data, {split}")
        for split in SPLITS
        if splits.get(split) is not None
    }
    source = make_source(parts, splits.get("classes"), can_resize="image_size" in settings)
    return {**to_plain(settings), **in_memory.keep(source)}


def _read_split(value: Any, place: str) -> RawImages:
    if isinstance(value, DataLoader):
        return read_loader(value, place)
    if isinstance(value, Dataset):
        return read_dataset(value, place)
    if isinstance(value, tuple | list) and len(value) == 2:
        return RawImages(value[0], value[1])
    raise InputError(f"{place}: is a {type(value).__name__}; allowed: {_ALLOWED}")
