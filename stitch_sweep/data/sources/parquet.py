"""Parquet files with encoded images, in the column layout of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.core.untrusted import parse_json, printable
from stitch_sweep.data.decoding import decode, stack_splits
from stitch_sweep.data.images import Images
from stitch_sweep.data.names import join_names, normalize_name
from stitch_sweep.data.sources.base import Source
from stitch_sweep.data.sources.parquet_files import find_parquet_files

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label", "labels")


@DATASETS.register("parquet")
def parquet(
    image_size: int | None, *, path: str, image_column: str = "auto", label_column: str = "auto"
) -> Source:
    """Read encoded images from `train*.parquet` and `test*.parquet`, as the Hugging Face hub stores them.

    The hub's converted layout, `train/0000.parquet` and `test/0000.parquet`, is read too. The files of a
    split are read in sorted order. An image is bytes, or a struct with a field `bytes`; a label is an
    integer from 0. Class names come from the Hugging Face metadata and must be equal in all files that
    have them; without metadata, the names are the labels' numbers.

    Args:
        image_size: required if the images differ in size or aren't square.
        path: a folder, or a pattern such as `data/*/*.parquet` that matches folders or files.
        image_column: "auto" selects `image` or `img`.
        label_column: "auto" selects `label`, `fine_label` or `labels`.

    Raises:
        InputError: there are no such files; numbered files are missing or repeated; a file isn't
            parquet or is truncated; a column is missing or has another type; files have different
            columns or class names; an image can't be read; or labels have gaps or no class name.
    """
    data_set = f"data set parquet: {path}"
    files = find_parquet_files(path, data_set)
    splits = {
        split: [_read_shard(file, image_column, label_column) for file in split_files]
        for split, split_files in files.splits.items()
    }
    for split, shards in splits.items():
        if not any(len(shard.labels) for shard in shards):
            raise InputError(f"{data_set}: the {split} files have no rows")
    all_shards = [*splits["train"], *splits["test"]]
    classes, notes = _agree_on_classes(all_shards, data_set)
    labels = {split: torch.cat([s.labels for s in shards]) for split, shards in splits.items()}
    if classes is None:
        _check_labels(splits["train"], None)
        values = labels["train"].unique().tolist()
        if values != list(range(len(values))):
            raise InputError(
                f"{data_set}: training labels are {len(values)} values from {values[0]} to "
                f"{values[-1]}; allowed without class names: 0 to {len(values) - 1}, without gaps"
            )
        classes = tuple(map(str, values))
    _check_labels(all_shards, len(classes))
    train_images, test_images = stack_splits(
        _decode_shards(splits["train"], image_size),
        _decode_shards(splits["test"], image_size),
        data_set,
    )
    train, test = Images(train_images, labels["train"]), Images(test_images, labels["test"])
    if unused := [*files.others, *files.partial_folders]:
        notes.append(
            f"{data_set}: files and folders that are neither train nor test are skipped: "
            f"{join_names(entry.name for entry in unused)}; validation images are cut from the "
            "training images (data.val_fraction)"
        )
    return Source(train, test, classes, tuple(notes))


@dataclass(frozen=True, eq=False)
class _Shard:
    """The content of one file.

    Attributes:
        file: the file.
        columns: names of the image and the label column.
        encoded: an encoded image per row.
        labels: int64, a label per row.
        classes: class names in the file's metadata; None if it has none.
    """

    file: Path
    columns: tuple[str, str]
    encoded: list[bytes]
    labels: Tensor
    classes: tuple[str, ...] | None


def _read_shard(file: Path, image_column: str, label_column: str) -> _Shard:
    try:
        with pq.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            image_name = _find_column(file, schema, "image_column", image_column, _IMAGE_COLUMNS)
            label_name = _find_column(file, schema, "label_column", label_column, _LABEL_COLUMNS)
            _check_types(file, schema, image_name, label_name)
            table = opened.read(columns=[image_name, label_name])
        encoded = table.column(image_name)
        if pa.types.is_struct(encoded.type):
            encoded = pc.struct_field(encoded, "bytes")
        labels = table.column(label_name).cast(pa.int64())
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name isn't UTF-8
        raise InputError(f"{file} can't be read as a parquet file: {printable(error)}") from error
    for name, column, content in (
        (image_name, encoded, "image bytes"),
        (label_name, labels, "label"),
    ):
        if column.null_count:
            row = pc.index(column.is_null(), True).as_py()
            raise InputError(f"{file}, row {row}: column {name!r} has no {content}")
    return _Shard(
        file,
        (image_name, label_name),
        encoded.to_pylist(),
        torch.tensor(labels.to_pylist(), dtype=torch.int64),
        _class_names(file, schema, label_name),
    )


def _decode_shards(shards: Sequence[_Shard], image_size: int | None) -> list[Tensor]:
    rows = [
        (f"{shard.file}, row {row}", content)
        for shard in shards
        for row, content in enumerate(shard.encoded)
    ]
    return decode(rows, image_size)


def _agree_on_classes(
    shards: Sequence[_Shard], data_set: str
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Return the class names of all files (None if no file has any), and notes on their spelling.

    Raises:
        InputError: files have different columns or class names.
    """
    first, problems = shards[0], []
    named = next((shard for shard in shards if shard.classes is not None), first)
    respelled = []
    for shard in shards[1:]:
        if shard.columns != first.columns:
            problems.append(
                f"{shard.file} has its images and labels in the columns "
                f"{' and '.join(shard.columns)}, {first.file} in {' and '.join(first.columns)}; set "
                "image_column and label_column to columns that are in all files"
            )
        if shard.classes is None or named.classes is None or shard.classes == named.classes:
            continue
        if list(map(normalize_name, shard.classes)) == list(map(normalize_name, named.classes)):
            respelled.append(shard.file.name)
        else:
            problems.append(_explain_difference(shard, named))
    if problems:
        raise InputError(*problems)
    notes = []
    if respelled:
        notes.append(
            f"{data_set}: class names of {join_names(respelled)} are those of {named.file.name} in "
            "another Unicode form (NFC or NFD); both are read as the same classes"
        )
    return named.classes, notes


def _explain_difference(shard: _Shard, reference: _Shard) -> str:
    """Describe how the class names of a file differ from those of another file."""
    names, expected = shard.classes or (), reference.classes or ()
    remedy = "a label would mean different classes in the two files; write both with the same names"
    if len(names) != len(expected):
        return (
            f"{shard.file} has {len(names)} class names, {reference.file} has {len(expected)}; "
            f"{remedy}"
        )
    label = next(
        k for k, pair in enumerate(zip(names, expected, strict=True)) if len(set(pair)) > 1
    )
    return (
        f"{shard.file}: label {label} is class {names[label]!r}, in {reference.file} it is "
        f"{expected[label]!r}; {remedy}"
    )


def _check_labels(shards: Iterable[_Shard], num_classes: int | None) -> None:
    """Check that every label belongs to a class.

    Args:
        shards: the files.
        num_classes: None if the number isn't known yet; only negative labels are refused then.

    Raises:
        InputError: with the first wrong label of each file.
    """
    problems = []
    for shard in shards:
        invalid = shard.labels < 0
        if num_classes is not None:
            invalid |= shard.labels >= num_classes
        if not invalid.any():
            continue
        row = int(invalid.nonzero()[0])
        label = int(shard.labels[row])
        allowed = "0 and more" if num_classes is None else f"0 to {num_classes - 1}"
        hint = "; -1 stands for a hidden label: use a file with labels" if label == -1 else ""
        problems.append(f"{shard.file}, row {row}: label {label}; allowed: {allowed}{hint}")
    if problems:
        raise InputError(*problems)


def _find_column(
    file: Path, schema: pa.Schema, option: str, choice: str, defaults: tuple[str, ...]
) -> str:
    """Return the name of the chosen column; for the choice "auto", the first default that exists."""
    candidates = defaults if choice == "auto" else (choice,)
    for name in candidates:
        if schema.names.count(name) > 1:
            raise InputError(
                f"{file} has several columns named {name!r}; set {option} to another column"
            )
        if name in schema.names:
            return name
    raise InputError(
        f"{file} has no column {' or '.join(map(repr, candidates))}; set {option} to one of: "
        + join_names(schema.names, 20)
    )


def _check_types(file: Path, schema: pa.Schema, image_name: str, label_name: str) -> None:
    content = schema.field(image_name).type
    if pa.types.is_struct(content) and content.get_field_index("bytes") >= 0:
        content = content.field("bytes").type
    binary = pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view
    if not any(is_type(content) for is_type in binary):
        raise InputError(
            f"{file}: column {image_name!r} is of type {schema.field(image_name).type}; allowed: "
            "a struct with a field 'bytes', or bytes"
        )
    label = schema.field(label_name).type
    if not pa.types.is_integer(label):
        raise InputError(
            f"{file}: labels in column {label_name!r} are of type {label}; allowed: integers"
        )


def _class_names(file: Path, schema: pa.Schema, label_name: str) -> tuple[str, ...] | None:
    """Return the names of the feature `ClassLabel` in the metadata of the `datasets` library.

    Raises:
        InputError: the metadata exists but is unusable.
    """
    content = (schema.metadata or {}).get(b"huggingface")
    if content is None:
        return None
    try:
        names: Any = parse_json(content, f"{file}: its metadata 'huggingface'")
        for key in ("info", "features", label_name, "names"):
            names = names[key]
    except (LookupError, TypeError):
        return None  # the label is another feature, such as a plain integer
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{file}: its class names in the metadata 'huggingface' are not a list of strings"
        )
    return tuple(names)
