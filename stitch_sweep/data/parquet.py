"""Parquet files in the column layout of the Hugging Face hub."""

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
from stitch_sweep.data.decoding import decode, stack
from stitch_sweep.data.images import Images
from stitch_sweep.data.scanning import listed, normalized
from stitch_sweep.data.shards import find_shards
from stitch_sweep.data.sources import Source

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")


@DATASETS.register("parquet")
def parquet(
    image_size: int | None, *, path: str, image_column: str = "auto", label_column: str = "auto"
) -> Source:
    """Encoded images in `train*.parquet` and `test*.parquet`, as the Hugging Face hub stores them.

    The hub's converted layout, `train/0000.parquet` and `test/0000.parquet`, is read too. Several
    files of a split are read in sorted order. An image is a struct with a field `bytes`, or bytes; a
    label an integer from 0. Class names come from the Hugging Face metadata, and must be the same in
    all files that have any; without metadata they are the numbers.

    Args:
        image_size: required where the images differ in size or aren't square.
        path: a folder, or a pattern such as `data/*/*.parquet` that matches folders or files.
        image_column: "auto" takes `image` or `img`.
        label_column: "auto" takes `label`, `fine_label` or `labels`.

    Raises:
        InputError: no such files, numbered files of which some are missing or there twice, a file
            that isn't parquet or is cut off, a missing column, a column of another type, files with
            different columns or class names, an image that can't be read, or labels with gaps or
            that no class name belongs to.
    """
    where = f"data set parquet: {path}"
    found = find_shards(path, where)
    splits = {
        split: [_read(file, image_column, label_column) for file in files]
        for split, files in found.files.items()
    }
    for split, shards in splits.items():
        if not any(len(shard.labels) for shard in shards):
            raise InputError(f"{where}: the {split} files have no rows")
    everything = [*splits["train"], *splits["test"]]
    classes, notes = _agreed_classes(everything, where)
    labels = {split: torch.cat([s.labels for s in shards]) for split, shards in splits.items()}
    if classes is None:
        _check_labels(splits["train"], None)
        values = labels["train"].unique().tolist()
        if values != list(range(len(values))):
            raise InputError(
                f"{where}: training labels are {len(values)} values from {values[0]} to {values[-1]}; "
                f"allowed without class names: 0 to {len(values) - 1}, without gaps"
            )
        classes = tuple(map(str, values))
    _check_labels(everything, len(classes))
    train_images, test_images = stack(
        _decode(splits["train"], image_size), _decode(splits["test"], image_size), where
    )
    train, test = Images(train_images, labels["train"]), Images(test_images, labels["test"])
    if left_out := [*found.others, *found.part_of_split]:
        notes.append(
            f"{where}: what is neither train nor test is left out: "
            f"{listed(entry.name for entry in left_out)}; validation images are cut from the training "
            "images (data.val_fraction)"
        )
    return Source(train, test, classes, tuple(notes))


@dataclass(frozen=True, eq=False)
class _Shard:
    file: Path
    columns: tuple[str, str]
    encoded: list[bytes]
    labels: Tensor
    classes: tuple[str, ...] | None


def _read(file: Path, image_column: str, label_column: str) -> _Shard:
    try:
        with pq.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            image_name = _column(file, schema, "image_column", image_column, IMAGE_COLUMNS)
            label_name = _column(file, schema, "label_column", label_column, LABEL_COLUMNS)
            _check_types(file, schema, image_name, label_name)
            table = opened.read(columns=[image_name, label_name])
        encoded = table.column(image_name)
        if pa.types.is_struct(encoded.type):
            encoded = pc.struct_field(encoded, "bytes")
        labels = table.column(label_name).cast(pa.int64())
    except (pa.ArrowException, OSError, ValueError) as error:  # a name that is not UTF-8, say
        raise InputError(f"{file} can't be read as a parquet file: {printable(error)}") from error
    for name, column, what in (
        (image_name, encoded, "image bytes"),
        (label_name, labels, "label"),
    ):
        if column.null_count:
            row = pc.index(column.is_null(), True).as_py()
            raise InputError(f"{file}, row {row}: column {name!r} has no {what}")
    return _Shard(
        file,
        (image_name, label_name),
        encoded.to_pylist(),
        torch.tensor(labels.to_pylist(), dtype=torch.int64),
        _class_names(file, schema, label_name),
    )


def _decode(shards: Sequence[_Shard], image_size: int | None) -> list[Tensor]:
    rows = [
        (f"{shard.file}, row {row}", content)
        for shard in shards
        for row, content in enumerate(shard.encoded)
    ]
    return decode(rows, image_size)


def _agreed_classes(
    shards: Sequence[_Shard], where: str
) -> tuple[tuple[str, ...] | None, list[str]]:
    """The class names of all files, None where no file has any, and notes on their spelling.

    Raises:
        InputError: files have different columns or class names.
    """
    first, problems = shards[0], []
    named = next((shard for shard in shards if shard.classes is not None), first)
    spelled_otherwise = []
    for shard in shards[1:]:
        if shard.columns != first.columns:
            problems.append(
                f"{shard.file} has its images and labels in the columns {' and '.join(shard.columns)}, "
                f"{first.file} in {' and '.join(first.columns)}; set image_column and label_column to "
                "columns that are in all files"
            )
        if shard.classes is None or named.classes is None or shard.classes == named.classes:
            continue
        if list(map(normalized, shard.classes)) == list(map(normalized, named.classes)):
            spelled_otherwise.append(shard.file.name)
        else:
            problems.append(_explain_difference(shard, named))
    if problems:
        raise InputError(*problems)
    notes = []
    if spelled_otherwise:
        notes.append(
            f"{where}: class names of {listed(spelled_otherwise)} are those of {named.file.name} in "
            "another Unicode form (NFC or NFD); they are taken for the same classes"
        )
    return named.classes, notes


def _explain_difference(shard: _Shard, named: _Shard) -> str:
    """How the class names of a file differ from those of another."""
    one, other = shard.classes or (), named.classes or ()
    remedy = "labels would mean different classes in the two files; write both with the same names"
    if len(one) != len(other):
        return f"{shard.file} has {len(one)} class names, {named.file} has {len(other)}; {remedy}"
    label = next(k for k, names in enumerate(zip(one, other, strict=True)) if len(set(names)) > 1)
    return (
        f"{shard.file}: label {label} is class {one[label]!r}, in {named.file} it is "
        f"{other[label]!r}; {remedy}"
    )


def _check_labels(shards: Iterable[_Shard], num_classes: int | None) -> None:
    """Check that every label belongs to a class.

    Args:
        shards: the files.
        num_classes: None where it is not known yet: then only negative labels are refused.

    Raises:
        InputError: some don't; with the first one of each file.
    """
    problems = []
    for shard in shards:
        wrong = shard.labels < 0
        if num_classes is not None:
            wrong |= shard.labels >= num_classes
        if not wrong.any():
            continue
        row = int(wrong.nonzero()[0])
        label = int(shard.labels[row])
        allowed = "0 and more" if num_classes is None else f"0 to {num_classes - 1}"
        hidden = "; -1 stands for a hidden label: use a file with labels" if label == -1 else ""
        problems.append(f"{shard.file}, row {row}: label {label}; allowed: {allowed}{hidden}")
    if problems:
        raise InputError(*problems)


def _column(file: Path, schema: pa.Schema, option: str, wanted: str, usual: tuple[str, ...]) -> str:
    candidates = usual if wanted == "auto" else (wanted,)
    for name in candidates:
        if schema.names.count(name) > 1:
            raise InputError(f"{file} has several columns {name!r}; set {option} to another one")
        if name in schema.names:
            return name
    raise InputError(
        f"{file} has no column {' or '.join(map(repr, candidates))}; set {option} to one of: "
        + listed(schema.names, 20)
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
    """Names of the feature ClassLabel in the metadata that the `datasets` library writes.

    Raises:
        InputError: there is such metadata, but it can't be used.
    """
    content = (schema.metadata or {}).get(b"huggingface")
    if content is None:
        return None
    try:
        names: Any = parse_json(content, f"{file}: its metadata 'huggingface'")
        for key in ("info", "features", label_name, "names"):
            names = names[key]
    except (LookupError, TypeError):
        return None  # another feature, such as a plain integer
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{file}: its class names in the metadata 'huggingface' are not a list of texts"
        )
    return tuple(names)
