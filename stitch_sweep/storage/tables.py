"""Parquet tables that somebody else may have written: reading them in bounded memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stitch_sweep.core.untrusted import MIB, UnreadableFileError, size

SMALL = 256 * MIB
"""Bytes in memory up to which a table is read, however small its file is."""
MOST_EXPANSION = 64
"""Bytes in memory per byte of the file that a larger table may have."""
_LONGEST_TEXT = 16 * MIB
_BATCH = 4096
_VALUE = 8
"""Bytes of a number in memory."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a parquet table of numbers, texts, truth values, and lists of these.

    A few bytes of parquet can stand for 10^9 rows, so the memory is bounded by the file's size. The
    metadata that pandas and Arrow add are not followed: they can name types whose code is run.

    Returns:
        The table with a fresh index. Whole numbers with missing values are `Int64`, truth values with
        missing ones `boolean`.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: not a regular file, not parquet, a column occurs twice or is of another
            type, or it needs more memory than a file of its size can.
    """
    file_size = _regular_size(path)
    limit = max(SMALL, MOST_EXPANSION * file_size)
    try:
        table = _read(path, limit)
        frame = table.replace_schema_metadata(None).to_pandas()
    except UnreadableFileError:
        raise
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnreadableFileError(path, f"is not a readable parquet table ({reason})") from None
    for field in table.schema:
        if table[field.name].null_count and pa.types.is_integer(field.type):
            frame[field.name] = table[field.name].to_pandas(types_mapper=_NULLABLE.get)
        elif table[field.name].null_count and pa.types.is_boolean(field.type):
            frame[field.name] = frame[field.name].astype("boolean")
    return frame


_NULLABLE = {
    getattr(pa, name.lower())(): getattr(pd, f"{name}Dtype")()
    for sign in ("Int", "UInt")
    for name in (f"{sign}{bits}" for bits in (8, 16, 32, 64))
}


def _regular_size(path: Path) -> int:
    try:
        status = os.stat(path)  # noqa: PTH116  (one look)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UnreadableFileError(path, f"cannot be read ({error})") from None
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFileError(path, "is not a regular file")
    return status.st_size


def _read(path: Path, limit: int) -> pa.Table:
    too_large = UnreadableFileError(
        path, f"needs more than {size(limit)} of memory, the most for a file of its size"
    )
    with pq.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
        names = schema.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UnreadableFileError(path, f"has the column {twice[0]!r} twice")
        for field in schema:
            if not _is_plain(field.type):
                raise UnreadableFileError(
                    path, f"column {field.name!r} is of type {str(field.type)[:80]}"
                )
        chunks = (
            metadata.row_group(group).column(k)
            for group in range(metadata.num_row_groups)
            for k in range(metadata.num_columns)
        )
        claimed = max(sum(c.num_values for c in chunks), metadata.num_rows * len(names))
        if claimed * _VALUE > limit:
            raise too_large
        leaves = [metadata.schema.column(k) for k in range(metadata.num_columns)]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    batches, used = [], 0
    # A text that is repeated stays one text until it is known how often.
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        schema = file.schema_arrow
        for batch in file.iter_batches(batch_size=_BATCH):
            used += sum(_dense_bytes(column) for column in batch.columns)
            if used > limit:
                raise too_large
            batches.append(batch)
    dense = pa.schema([(field.name, _dense(field.type)) for field in schema])
    return pa.Table.from_batches(batches, schema).cast(dense)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a column holds numbers, texts, truth values, nothing, or lists of these."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_scalar(kind.value_type)
    return _is_scalar(kind)


def _is_scalar(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
    )


def _dense(kind: pa.DataType) -> pa.DataType:
    """A type without dictionaries."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_dense(kind.value_type))
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _dense_bytes(column: pa.Array) -> int:
    """Bytes of a column once every repetition of a text stands by itself."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _dense_bytes(column.flatten()) + _VALUE * len(column)
    if not pa.types.is_dictionary(column.type):
        return max(int(column.nbytes), _VALUE * len(column))
    lengths = pc.binary_length(column.dictionary)
    if len(lengths) and pc.max(lengths).as_py() > _LONGEST_TEXT:
        raise ValueError("a text is too long")
    total = pc.sum(lengths.take(column.indices)).as_py() or 0
    return int(total) + _VALUE * len(column)
