"""Reading of parquet tables from unknown sources, with a memory limit."""

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
"""Memory that is allowed for every table, even if its file is small, in bytes."""
MOST_EXPANSION = 64
"""Memory that is allowed for larger tables, in bytes per byte of the file."""
_LONGEST_TEXT = 16 * MIB
_BATCH = 4096
_VALUE = 8
"""Size of a number in memory, in bytes."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a parquet table of numbers, strings, booleans, and lists of these.

    A few bytes of parquet can represent 10^9 rows, so the file's size limits the memory. The metadata of
    pandas and Arrow are ignored, because they can name types whose code would be run.

    Returns:
        The table with a new index. Integers with missing values are `Int64`, booleans with missing values
        `boolean`.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableFileError: not a regular file, not parquet, a column occurs twice or has another type,
            or the table needs more memory than the file's size allows.
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
        status = os.stat(path)  # noqa: PTH116  (one system call)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UnreadableFileError(path, f"cannot be read ({error})") from None
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFileError(path, "is not a regular file")
    return status.st_size


def _read(path: Path, limit: int) -> pa.Table:
    too_large = UnreadableFileError(
        path, f"needs more than {size(limit)} of memory, the limit for a file of its size"
    )
    with pq.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
        names = schema.names
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UnreadableFileError(path, f"has the column {repeated[0]!r} twice")
        for field in schema:
            if not _is_plain(field.type):
                raise UnreadableFileError(
                    path,
                    f"column {field.name!r} has the type {str(field.type)[:80]}, which is not allowed",
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
    # Repeated strings stay in a dictionary until their total size is known.
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
    """Return whether a type is a number, string, boolean, null, or a list of these."""
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
    """Return a type without dictionaries."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_dense(kind.value_type))
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _dense_bytes(column: pa.Array) -> int:
    """Return the bytes of a column with all repeated strings expanded."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _dense_bytes(column.flatten()) + _VALUE * len(column)
    if not pa.types.is_dictionary(column.type):
        return max(int(column.nbytes), _VALUE * len(column))
    lengths = pc.binary_length(column.dictionary)
    if len(lengths) and pc.max(lengths).as_py() > _LONGEST_TEXT:
        raise ValueError("a string is too long")
    total = pc.sum(lengths.take(column.indices)).as_py() or 0
    return int(total) + _VALUE * len(column)
