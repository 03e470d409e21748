"""Search for files that match a pattern such as `data/*/train-*.parquet`, with a limit on the work."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from glob import has_magic
from pathlib import Path

from stitch_sweep.core.errors import InputError

MOST_ENTRIES = 100_000
"""Largest number of files and folders that are examined for one pattern."""


def find(pattern: Path, most: int = MOST_ENTRIES) -> Iterator[Path]:
    """Find the files and folders that match a pattern, each once, folder by folder.

    As in `glob.glob` with `recursive=True`, `**` matches any number of folders, and `*`, `?` and `[...]`
    match no name that begins with a dot. Links to folders are followed, unless they lead to the folder
    that contains them or to a folder above it.

    Args:
        pattern: a path whose parts may be patterns.
        most: largest number of files and folders to examine.

    Raises:
        InputError: the search would examine more than `most` files and folders.
    """
    parts = pattern.parts[len(pattern.anchor) > 0 :]
    examined = 0
    visited = set()
    waiting = [(Path(pattern.anchor), 0)]
    while waiting:
        folder, k = state = waiting.pop()
        if state in visited:
            continue
        visited.add(state)
        if k == len(parts):
            yield folder
            continue
        if not has_magic(parts[k]):
            child = folder / parts[k]
            if os.path.lexists(child):
                waiting.append((child, k + 1))
            continue
        is_recursive = parts[k] == "**"
        if is_recursive:
            waiting.append((folder, k + 1))
        try:
            entries = os.scandir(folder)
        except OSError:
            continue
        with entries:
            for entry in entries:
                examined += 1
                if examined > most:
                    raise InputError(
                        f"{pattern}: the search would examine more than {most} files and folders; "
                        "name the folder more exactly"
                    )
                if entry.name.startswith(".") and not parts[k].startswith("."):
                    continue
                if is_recursive:
                    is_last = k == len(parts) - 1
                    if (is_last or _is_folder(entry)) and not _leads_back(entry, folder):
                        waiting.append((folder / entry.name, k))
                elif fnmatch.fnmatch(entry.name, parts[k]):
                    waiting.append((folder / entry.name, k + 1))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _leads_back(entry: os.DirEntry[str], folder: Path) -> bool:
    """Return whether an entry of a folder is a link to the folder itself or to a folder above it."""
    return entry.is_symlink() and Path(os.path.realpath(folder)).is_relative_to(
        os.path.realpath(entry.path)
    )
