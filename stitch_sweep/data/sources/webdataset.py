"""WebDataset: tar archives in which the files of one sample follow each other.

The format is tar, which the standard library reads: the package `webdataset` isn't needed. It would also
unpickle entries named `.pyd` and run the shell commands of paths that begin with `pipe:`.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import DATASETS
from stitch_sweep.core.untrusted import printable, size
from stitch_sweep.data.decoding import LARGEST_FILE, readable_suffixes
from stitch_sweep.data.names import join_names
from stitch_sweep.data.sources.base import Source
from stitch_sweep.data.sources.shard_files import find_shard_files
from stitch_sweep.data.sources.shards import Shard, assemble

_LARGEST_LABEL = 64  # bytes
_END = bytes(1024)
"""The end of every tar. Without it, an archive that is cut off after a file would seem to be complete."""


@DATASETS.register("webdataset")
def webdataset(
    image_size: int | None, *, path: str, image_key: str = "auto", label_key: str = "cls"
) -> Source:
    """Read WebDataset archives: `train*.tar` and `test*.tar`, or `train/0000.tar` and `test/0000.tar`.

    The name of a file in an archive is `<sample>.<key>`, such as `0001.jpg` and `0001.cls`. The files of
    a sample must be adjacent in the archive. The file of a label contains a whole number, 0 or more, as
    text.

    Args:
        image_size: required if the images differ in size or aren't square.
        path: a folder, or a pattern such as `data/{train,test}-{000..009}.tar`.
        image_key: key of the images; "auto" selects the keys that are suffixes of image files.
        label_key: key of the labels.

    Raises:
        InputError: there are no such files; numbered files are missing or repeated; a file isn't an
            uncompressed tar or is truncated; a sample has no image or no label, or several; an image
            can't be read; or labels have gaps.
    """
    data_set = f"data set webdataset: {printable(path)}"
    files = find_shard_files(path, ".tar", data_set)
    splits = {
        split: [_read_archive(file, image_key, label_key) for file in split_files]
        for split, split_files in files.splits.items()
    }
    return assemble(splits, image_size, data_set, files.notes(data_set))


def _read_archive(file: Path, image_key: str, label_key: str) -> Shard:
    suffixes = readable_suffixes()
    rows, encoded, labels = [], [], []
    seen = set()
    for sample, entries in _iterate_samples(file):
        place = f"{file}, sample {printable(sample)}"
        if sample in seen:
            raise InputError(f"{place}: its files do not follow each other, or it occurs twice")
        seen.add(sample)
        images = [
            key
            for key in entries
            if (key == image_key if image_key != "auto" else f".{key.split('.')[-1]}" in suffixes)
        ]
        if len(images) != 1:
            wanted = "an image" if image_key == "auto" else repr(image_key)
            several = f"has {len(images)} images" if images else f"has no file for {wanted}"
            raise InputError(
                f"{place}: {several}; set image_key to one of: {join_names(entries, 20)}"
            )
        if label_key not in entries:
            raise InputError(
                f"{place}: has no file for {label_key!r}; set label_key to one of: "
                f"{join_names(entries, 20)}"
            )
        rows.append(f"{sample}.{images[0]}")
        encoded.append(entries[images[0]])
        labels.append(_read_label(entries[label_key], f"{place}.{label_key}"))
    return Shard(
        file,
        ("images", label_key),
        encoded,
        torch.tensor(labels, dtype=torch.int64),
        rows=tuple(map(printable, rows)),
    )


def _read_label(content: bytes, place: str) -> int:
    text = content[:_LARGEST_LABEL].decode("ascii", "replace").strip()
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):
        raise InputError(f"{place}: the label is {text!r}; allowed: a whole number in digits")
    return int(text)


def _iterate_samples(file: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Iterate over the samples of an archive: name, and content of its files by key."""
    sample: str | None = None
    entries: dict[str, bytes] = {}
    for name, content in _iterate_files(file):
        path = PurePosixPath(name)
        stem, dot, key = path.name.partition(".")
        # Names that begin with a dot or an underscore hold notes, as those that a Mac adds.
        if not (stem and dot and key) or stem.startswith("_"):
            continue
        current = (path.parent / stem).as_posix()
        if current != sample:
            if sample is not None:
                yield sample, entries
            sample, entries = current, {}
        if key.lower() in entries:
            raise InputError(f"{file}: contains {printable(name)} twice")
        entries[key.lower()] = content
    if sample is not None:
        yield sample, entries


def _iterate_files(file: Path) -> Iterator[tuple[str, bytes]]:
    """Iterate over name and content of the regular files in an archive. Nothing is unpacked to disk."""
    try:
        # "r:" refuses compressed archives, which could unpack to any size.
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not member.isreg():
                    raise InputError(f"{file}: {printable(member.name)} is a link or a device")
                if member.size > LARGEST_FILE:
                    raise InputError(
                        f"{file}: {printable(member.name)} is larger than {size(LARGEST_FILE)}"
                    )
                opened = archive.extractfile(member)
                assert opened is not None  # only of links and devices
                content = opened.read()
                if len(content) != member.size:
                    raise tarfile.ReadError("unexpected end of data")
                yield member.name, content
        with file.open("rb") as archive_file:
            archive_file.seek(-len(_END), os.SEEK_END)
            if archive_file.read() != _END:
                raise tarfile.ReadError("its end is missing; copy it again")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{file} can't be read as an uncompressed tar: {printable(error)}"
        ) from error
