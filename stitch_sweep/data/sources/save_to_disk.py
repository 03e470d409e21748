"""Folders that the Hugging Face library `datasets` writes with `save_to_disk`.

The files are Arrow streams, which pyarrow reads: the library itself isn't needed. It would also open the
paths and addresses that a row may hold instead of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.core.untrusted import printable, read_json
from stitch_sweep.data.names import explain_unusable, join_names
from stitch_sweep.data.sources.base import Source
from stitch_sweep.data.sources.columns import OpenTable, read_table
from stitch_sweep.data.sources.shards import Shard, assemble

_SPLITS_FILE = "dataset_dict.json"
_STATE_FILE = "state.json"


@DATASETS.register("datasets")
def datasets(
    image_size: int | None,
    *,
    path: str,
    train_split: str = "train",
    test_split: str = "test",
    image_column: str = "auto",
    label_column: str = "auto",
) -> Source:
    """Read a folder that the Hugging Face library `datasets` wrote with `DatasetDict.save_to_disk`.

    Images have the column type `Image` or are bytes; labels have the type `ClassLabel` or are integers
    from 0. The `ClassLabel` also contains the class names.

    Args:
        image_size: required if the images differ in size or aren't square.
        path: the folder that contains `dataset_dict.json`.
        train_split: name of the training split.
        test_split: name of the test split.
        image_column: column of the images; "auto" selects `image` or `img`.
        label_column: column of the labels; "auto" selects `label`, `fine_label` or `labels`.

    Raises:
        InputError: it is no such folder, a split or a file is missing or damaged, or images and labels
            can't be used (see `parquet`).
    """
    root = Path(path).expanduser()
    data_set = f"data set datasets: {printable(path)}"
    names = {"train": train_split, "test": test_split}
    splits = _list_splits(root, data_set)
    for split, name in names.items():
        if name not in splits:
            raise InputError(
                f"{data_set}: has no split {name!r}; set {split}_split to one of: "
                f"{join_names(splits, 20)}"
            )
    if train_split == test_split:
        raise InputError(f"{data_set}: {train_split!r} is both train_split and test_split")
    shards = {
        split: _read_split(root / name, data_set, image_column, label_column)
        for split, name in names.items()
    }
    notes = []
    if others := [name for name in splits if name not in names.values()]:
        notes.append(
            f"{data_set}: splits other than {train_split} and {test_split} are skipped: "
            f"{join_names(others)}; validation images are cut from the training images "
            "(data.val_fraction)"
        )
    return assemble(shards, image_size, data_set, notes)


def _list_splits(root: Path, data_set: str) -> list[str]:
    """Return the names of the splits in a folder.

    Raises:
        InputError: it isn't the folder of a `DatasetDict`.
    """
    try:
        splits = read_json(root / _SPLITS_FILE).get("splits")
    except FileNotFoundError:
        if (root / _STATE_FILE).exists():
            raise InputError(
                f"{data_set} contains one split; write a DatasetDict with train and test, such as "
                "dataset.train_test_split(0.2, stratify_by_column='label').save_to_disk(...)"
            ) from None
        raise InputError(
            f"{data_set} has no {_SPLITS_FILE}; allowed: a folder that DatasetDict.save_to_disk wrote"
        ) from None
    if not isinstance(splits, list) or not all(map(_is_file_name, splits)):
        raise InputError(f"{root / _SPLITS_FILE}: its splits are not a list of folder names")
    return splits


def _read_split(folder: Path, data_set: str, image_column: str, label_column: str) -> list[Shard]:
    state_file = folder / _STATE_FILE
    try:
        state = read_json(state_file)
    except FileNotFoundError:
        raise InputError(f"{data_set}: {state_file} is missing; copy the whole folder") from None
    files = state.get("_data_files")
    entries = files if isinstance(files, list) else []
    names: list[Any] = [entry.get("filename") for entry in entries if isinstance(entry, dict)]
    if not names or not all(map(_is_file_name, names)):
        raise InputError(f"{state_file}: names no data files (_data_files)")
    if state.get("_indices_data_files"):
        raise InputError(
            f"{state_file}: the rows have an index, which an old version of datasets wrote; load the "
            "data set with the library and save it again"
        )
    problems = [
        f"{printable(folder / name)} {reason}"
        for name in names
        if (reason := _explain_missing(folder / name))
    ]
    if problems:
        raise InputError(*problems)
    kind = "an Arrow file of datasets"
    return [read_table(folder / name, kind, _open, image_column, label_column) for name in names]


def _explain_missing(path: Path) -> str | None:
    """Return the reason why a file can't be read; None if it can."""
    if not path.exists() and not path.is_symlink():
        return "is missing; copy the whole folder"
    return explain_unusable(path)


def _is_file_name(name: object) -> bool:
    """Return whether a value from a file is a name in the same folder, and no path out of it."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0:")


@contextmanager
def _open(file: Path) -> Iterator[OpenTable]:
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        yield stream.schema, lambda columns: stream.read_all().select(columns)
