"""Files that a pattern such as `data/*/train-*.parquet` matches, without a search of the whole disk."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from glob import has_magic
from pathlib import Path

from stitch_sweep.core.errors import InputError

MOST_ENTRIES = 100_000
"""Files and folders that are looked at for one pattern."""


def find(pattern: Path, most: int = MOST_ENTRIES) -> Iterator[Path]:
    """Find the files and folders that a pattern matches, each once, folder by folder.

    As in `glob.glob` with `recursive=True`, `**` stands for any number of folders, and `*`, `?` and
    `[...]` match no name that begins with a dot. Links to folders are followed, unless they lead back
    to a folder above.

    Args:
        pattern: a path, whose parts may be patterns.
        most: files and folders that are looked at.

    Raises:
        InputError: more than `most` files and folders would have to be looked at.
    """
    parts = pattern.parts[len(pattern.anchor) > 0 :]
    looked_at = 0
    seen = set()
    waiting = [(Path(pattern.anchor), 0)]
    while waiting:
        place, k = state = waiting.pop()
        if state in seen:
            continue
        seen.add(state)
        if k == len(parts):
            yield place
            continue
        if not has_magic(parts[k]):
            following = place / parts[k]
            if os.path.lexists(following):
                waiting.append((following, k + 1))
            continue
        recursive = parts[k] == "**"
        if recursive:
            waiting.append((place, k + 1))
        try:
            entries = os.scandir(place)
        except OSError:
            continue
        with entries:
            for entry in entries:
                looked_at += 1
                if looked_at > most:
                    raise InputError(
                        f"{pattern}: more than {most} files and folders would have to be looked at; "
                        "name the folder more exactly"
                    )
                if entry.name.startswith(".") and not parts[k].startswith("."):
                    continue
                if recursive:
                    last = k == len(parts) - 1
                    if (last or _is_folder(entry)) and not _leads_back(entry, place):
                        waiting.append((place / entry.name, k))
                elif fnmatch.fnmatch(entry.name, parts[k]):
                    waiting.append((place / entry.name, k + 1))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _leads_back(entry: os.DirEntry[str], place: Path) -> bool:
    """Whether an entry of a folder is a link to that folder or to one above it."""
    return entry.is_symlink() and Path(os.path.realpath(place)).is_relative_to(
        os.path.realpath(entry.path)
    )
