"""The image files below a folder: which are read, which are left out with a note, which are refused."""

from __future__ import annotations

import mimetypes
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import printable

# Folders in which other tools keep copies of files, thumbnails or deleted files; compared without case.
_TOOL_FOLDERS = frozenset(
    {
        "@eadir",  # Synology
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP
        "@recently-snapshot",
        "__macosx",  # archives made on a Mac
        "$recycle.bin",  # Windows
        "system volume information",
        "lost+found",
    }
)
SPLITS = ("train", "test")
_HIDDEN = "they are hidden, or in a folder where another tool keeps copies"
_OUTSIDE = "they are in no class folder"
_FORMAT = "Pillow does not read their format"
_NAMED = 3  # places that a note names; it counts all
_MOST_PROBLEMS = 10


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or is a folder of another tool's copies."""
    return name.startswith(".") or name.casefold() in _TOOL_FOLDERS


def normalized(name: str) -> str:
    """A class name in one Unicode form (NFC): file systems and archives store `é` in one of two ways."""
    return unicodedata.normalize("NFC", name)


def explain_unusable(path: Path) -> str | None:
    """Why a path is not a regular file, as in "is a folder"; None if it is one. Links are followed."""
    try:
        if path.is_file():
            return None
        if path.is_dir():
            return "is a folder"
        if path.is_symlink():
            path.stat()  # says why the link leads nowhere
    except FileNotFoundError:
        return f"is a symbolic link to {printable(path.readlink())}, which does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "is not a regular file"


def listed(names: Iterable[str], most: int = _NAMED) -> str:
    """The first names, and the number of the others."""
    names = list(map(printable, names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class FolderScan:
    """A search for image files below a folder, split by split and class by class.

    Symbolic links to files and folders are followed. Hidden files and folders, and folders of other
    tools' copies, are left out and counted.

    Args:
        root: the folder that holds the splits.
        where: what messages call it.

    Attributes:
        problems: what cannot be read, a sentence each.
    """

    def __init__(self, root: Path, where: str) -> None:
        self.root = root
        self.where = where
        self.problems: list[str] = []
        self._left_out: dict[str, Counter[str]] = {  # reason -> place or suffix -> images
            reason: Counter() for reason in (_HIDDEN, _OUTSIDE, _FORMAT)
        }
        extensions = Image.registered_extensions().items()
        self._suffixes = {suffix for suffix, kind in extensions if kind in Image.OPEN}

    def classes(self, split: str) -> list[str]:
        """The names of a split's class folders, sorted."""
        names = []
        for entry in self._entries(self.root / split):
            if is_left_out(entry.name):
                self._count_copies(entry)
            elif _is_folder(entry):
                names.append(entry.name)
            elif self._is_image(entry.name):
                self._left_out[_OUTSIDE][split] += 1
            else:
                self._check_link(entry)
        return names

    def images(self, split: str, name: str) -> list[Path]:
        """The image files of a class, at any depth, sorted by path."""
        found: list[Path] = []
        start = self.root / split / name
        # With each folder, the true paths of the folders that lead to it: a link to one is a loop.
        top = (Path(os.path.realpath(start.parent)),)
        folders: list[tuple[Path, tuple[Path, ...]]] = [(start, top)]
        while folders:
            folder, parents = folders.pop()
            true_path = Path(os.path.realpath(folder))
            if folder.is_symlink() and any(p.is_relative_to(true_path) for p in parents):
                self.problems.append(
                    f"{printable(folder)} is a symbolic link to a folder that contains it; remove it"
                )
                continue
            for entry in self._entries(folder):
                if is_left_out(entry.name):
                    self._count_copies(entry)
                elif _is_folder(entry):
                    folders.append((Path(entry.path), (*parents, true_path)))
                elif self._is_image(entry.name):
                    self._check_file(entry)
                    found.append(Path(entry.path))
                elif (mimetypes.guess_type(entry.name)[0] or "").startswith("image/"):
                    self._left_out[_FORMAT][Path(entry.name).suffix.lower()] += 1
                else:
                    self._check_link(entry)
        return sorted(found)

    def check(self) -> None:
        """Raise what was found to be wrong.

        Raises:
            InputError: something cannot be read; at most ten problems are named.
        """
        if more := self.problems[_MOST_PROBLEMS:]:
            raise InputError(*self.problems[:_MOST_PROBLEMS], f"... and {len(more)} more")
        if self.problems:
            raise InputError(*self.problems)

    def notes(self) -> list[str]:
        """What was left out, a sentence each."""
        notes = [
            f"{self.where}: images left out because {reason}: {counts.total()} "
            f"({listed(f'{place}: {count}' for place, count in sorted(counts.items()))})"
            for reason, counts in self._left_out.items()
            if counts
        ]
        others = [
            entry.name
            for entry in self._entries(self.root)
            if entry.name not in SPLITS and not is_left_out(entry.name) and _is_folder(entry)
        ]
        if others:
            notes.append(
                f"{self.where}: folders other than train and test are left out: {listed(others)}; "
                "validation images are cut from train (data.val_fraction)"
            )
        return notes

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append(f"{printable(folder)} cannot be read ({error.strerror})")
            return []

    def _is_image(self, name: str) -> bool:
        return Path(name).suffix.lower() in self._suffixes

    def _check_file(self, entry: os.DirEntry[str]) -> None:
        if reason := explain_unusable(Path(entry.path)):
            self.problems.append(f"{printable(entry.path)} {reason}; replace or remove it")

    def _check_link(self, entry: os.DirEntry[str]) -> None:
        """A link that leads nowhere may have led to a folder of images."""
        if entry.is_symlink():
            self._check_file(entry)

    def _count_copies(self, entry: os.DirEntry[str]) -> None:
        place = Path(entry.path).relative_to(self.root)
        if entry.is_dir(follow_symlinks=False):
            # `walk` passes over what cannot be read, which is right here: nothing of it is used.
            files = (name for _, _, names in os.walk(entry.path) for name in names)
            count = sum(map(self._is_image, files))
        else:
            is_file = (
                explain_unusable(Path(entry.path)) is None
            )  # an editor's lock is a dangling link
            count = int(is_file and self._is_image(entry.name))
            place = place.parent / ".*"
        if count:
            self._left_out[_HIDDEN][place.as_posix()] += count


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False
