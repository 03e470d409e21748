"""Parquet files with encoded images, in the column layout of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from stitch_sweep.core.registry import DATASETS
from stitch_sweep.data.sources.base import Source
from stitch_sweep.data.sources.columns import OpenTable, read_table
from stitch_sweep.data.sources.shard_files import find_shard_files
from stitch_sweep.data.sources.shards import assemble


@DATASETS.register("parquet")
def parquet(
    image_size: int | None, *, path: str, image_column: str = "auto", label_column: str = "auto"
) -> Source:
    """Read encoded images from `train*.parquet` and `test*.parquet`, as the Hugging Face hub stores them.

    The layout of files that the hub itself converted, `train/0000.parquet` and `test/0000.parquet`, is
    also read. The files of a split are read in sorted order. Images are bytes, or structs with a field
    `bytes`; labels are integers from 0. Class names come from the Hugging Face metadata and must be
    equal in all files that have them; without metadata, the class names are the numbers of the labels.

    Args:
        image_size: required if the images differ in size or aren't square.
        path: a folder, or a pattern such as `data/*/*.parquet` that matches folders or files.
        image_column: column of the images; "auto" selects `image` or `img`.
        label_column: column of the labels; "auto" selects `label`, `fine_label` or `labels`.

    Raises:
        InputError: there are no such files; numbered files are missing or repeated; a file isn't
            parquet or is truncated; a column is missing or has another type; files have different
            columns or class names; an image can't be read; or labels have gaps or no class name.
    """
    data_set = f"data set parquet: {path}"
    files = find_shard_files(path, ".parquet", data_set)
    splits = {
        split: [
            read_table(file, "a parquet file", _open, image_column, label_column)
            for file in split_files
        ]
        for split, split_files in files.splits.items()
    }
    return assemble(splits, image_size, data_set, files.notes(data_set))


@contextmanager
def _open(file: Path) -> Iterator[OpenTable]:
    with pq.ParquetFile(file) as opened:
        yield opened.schema_arrow, lambda columns: opened.read(columns=columns)
