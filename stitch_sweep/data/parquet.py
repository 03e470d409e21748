"""Parquet files in the column layout of the Hugging Face hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from stitch_sweep.data.decoding import decode, stack
from stitch_sweep.data.images import Images
from stitch_sweep.data.sources import Source
from stitch_sweep.errors import InputError
from stitch_sweep.patterns import find
from stitch_sweep.registry import DATASETS

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")


@DATASETS.register("parquet")
def parquet(
    image_size: int | None, *, path: str, image_column: str = "auto", label_column: str = "auto"
) -> Source:
    """Encoded images in `train*.parquet` and `test*.parquet`, as the Hugging Face hub stores them.

    Several files of a split are read in sorted order. An image is a struct with a field `bytes`, or
    bytes; a label an integer from 0. Class names come from the Hugging Face metadata of the first
    training file, else they are the numbers.

    Args:
        image_size: required where the images differ in size or aren't square.
        path: a folder, or a pattern such as `data/*/*.parquet` that matches folders or files.
        image_column: "auto" takes `image` or `img`.
        label_column: "auto" takes `label`, `fine_label` or `labels`.

    Raises:
        InputError: no such files, a file that isn't parquet or is cut off, a missing column, a
            column of another type, an image that can't be read, or labels with gaps.
    """
    where = f"data set parquet: {path}"
    files = _find(path, where)
    splits = []
    for split in ("train", "test"):
        shards = [_read(file, image_column, label_column) for file in files[split]]
        labels = torch.cat([shard.labels for shard in shards])
        if not len(labels):
            raise InputError(f"{where}: the {split} files have no rows")
        encoded = [
            (f"{shard.file}, row {row}", content)
            for shard in shards
            for row, content in enumerate(shard.encoded)
        ]
        splits.append((decode(encoded, image_size), labels, shards[0].classes))
    (train, train_labels, classes), (test, test_labels, _) = splits
    if classes is None:
        found = train_labels.unique().tolist()
        if found != list(range(len(found))):
            raise InputError(
                f"{where}: training labels are {len(found)} values from {found[0]} to {found[-1]}; "
                f"allowed without class names: 0 to {len(found) - 1}, without gaps"
            )
        classes = tuple(map(str, found))
    train_images, test_images = stack(train, test, where)
    return Source(Images(train_images, train_labels), Images(test_images, test_labels), classes)


def _find(path: str, where: str) -> dict[str, list[Path]]:
    """The files of each split, sorted by path."""
    expanded = Path(path).expanduser()
    matches = [expanded] if expanded.exists() else _matches(expanded, where)
    files = [file for match in matches for file in (match.iterdir() if match.is_dir() else [match])]
    if not files:
        raise InputError(f"{where} does not exist, is empty or matches nothing")
    found = {
        split: sorted(f for f in files if f.name.startswith(split) and f.suffix == ".parquet")
        for split in ("train", "test")
    }
    for split, of_split in found.items():
        if not of_split:
            raise InputError(
                f"{where}: no file is named {split}*.parquet; files there: "
                + ", ".join(sorted(file.name for file in files)[:10])
            )
    return found


def _matches(pattern: Path, where: str) -> list[Path]:
    try:
        return list(find(pattern))
    except InputError as error:
        raise InputError(*(f"{where}: {problem}" for problem in error.problems)) from None


@dataclass(frozen=True, eq=False)
class _Shard:
    file: Path
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
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} can't be read as a parquet file: {error}") from error
    for name, column, what in (
        (image_name, encoded, "image bytes"),
        (label_name, labels, "label"),
    ):
        if column.null_count:
            row = pc.index(column.is_null(), True).as_py()
            raise InputError(f"{file}, row {row}: column {name!r} has no {what}")
    return _Shard(
        file,
        encoded.to_pylist(),
        torch.tensor(labels.to_pylist(), dtype=torch.int64),
        _class_names(schema, label_name),
    )


def _column(file: Path, schema: pa.Schema, option: str, wanted: str, usual: tuple[str, ...]) -> str:
    candidates = usual if wanted == "auto" else (wanted,)
    for name in candidates:
        if name in schema.names:
            return name
    raise InputError(
        f"{file} has no column {' or '.join(map(repr, candidates))}; set {option} to one of: "
        + ", ".join(schema.names)
    )


def _check_types(file: Path, schema: pa.Schema, image_name: str, label_name: str) -> None:
    content = schema.field(image_name).type
    if pa.types.is_struct(content) and content.get_field_index("bytes") >= 0:
        content = content.field("bytes").type
    if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
        raise InputError(
            f"{file}: column {image_name!r} is of type {schema.field(image_name).type}; allowed: "
            "a struct with a field 'bytes', or bytes"
        )
    label = schema.field(label_name).type
    if not pa.types.is_integer(label):
        raise InputError(
            f"{file}: labels in column {label_name!r} are of type {label}; allowed: integers"
        )


def _class_names(schema: pa.Schema, label_name: str) -> tuple[str, ...] | None:
    """Names of the feature ClassLabel in the metadata that the `datasets` library writes."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        names = metadata["info"]["features"][label_name]["names"]
    except (LookupError, TypeError, ValueError):
        return None
    return tuple(map(str, names))
