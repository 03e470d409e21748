"""Arrow tables with encoded images and labels, as the Hugging Face libraries write them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import parse_json, printable
from stitch_sweep.data.names import join_names
from stitch_sweep.data.sources.shards import Shard

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")

OpenTable = tuple[pa.Schema, Callable[[list[str]], pa.Table]]
"""The schema of an open file, and a function that reads columns of it."""


def read_table(
    file: Path,
    kind: str,
    open_table: Callable[[Path], AbstractContextManager[OpenTable]],
    image_column: str,
    label_column: str,
) -> Shard:
    """Read the images and labels of one file; images stay encoded.

    An image is bytes, or a struct with a field `bytes`; a label is an integer.

    Args:
        file: the file.
        kind: name of the file's format, for messages.
        open_table: opens a file of this format.
        image_column: "auto" selects the first of `IMAGE_COLUMNS` that exists.
        label_column: "auto" selects the first of `LABEL_COLUMNS` that exists.

    Raises:
        InputError: the file has another format or is cut off; or a column is missing or has another type.
    """
    try:
        with open_table(file) as (schema, read):
            image_name = _find_column(file, schema, "image_column", image_column, IMAGE_COLUMNS)
            label_name = _find_column(file, schema, "label_column", label_column, LABEL_COLUMNS)
            _check_types(file, schema, image_name, label_name)
            table = read([image_name, label_name])
        encoded = table.column(image_name)
        if pa.types.is_struct(encoded.type):
            encoded = pc.struct_field(encoded, "bytes")
        labels = table.column(label_name).cast(pa.int64())
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name isn't UTF-8
        raise InputError(f"{file} can't be read as {kind}: {printable(error)}") from error
    for name, column, content in (
        (image_name, encoded, "image bytes"),
        (label_name, labels, "label"),
    ):
        if column.null_count:
            row = pc.index(column.is_null(), True).as_py()
            raise InputError(f"{file}, row {row}: column {name!r} has no {content}")
    return Shard(
        file,
        (image_name, label_name),
        encoded.to_pylist(),
        torch.tensor(labels.to_pylist(), dtype=torch.int64),
        _class_names(file, schema, label_name),
    )


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
