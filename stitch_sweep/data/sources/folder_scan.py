"""Scan a folder for image files: which files are read, skipped with a note, or refused."""

from __future__ import annotations

import mimetypes
import os
from collections import Counter
from pathlib import Path

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import printable
from stitch_sweep.data.decoding import readable_suffixes
from stitch_sweep.data.names import explain_unusable, join_names
from stitch_sweep.data.sources.base import OFFICIAL_SPLITS

# Folders in which other tools keep copies of files, thumbnails or deleted files, in lower case.
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
# Reasons to skip an image file, as notes state them.
_HIDDEN = "they are hidden, or in a folder where another tool keeps copies"
_OUTSIDE = "they are in no class folder"
_FORMAT = "Pillow does not read their format"
_MAX_PROBLEMS = 10


class FolderScan:
    """A scan for image files below a folder, split by split and class by class.

    Symbolic links to files and folders are followed. Hidden files and folders, and folders in which
    other tools keep copies, are skipped; the images in them are counted.

    Args:
        root: the folder that contains the splits.
        data_set: the data set and its path, for messages.

    Attributes:
        problems: files and folders that cannot be read, a sentence each.
    """

    def __init__(self, root: Path, data_set: str) -> None:
        self.root = root
        self.data_set = data_set
        self.problems: list[str] = []
        self._skipped: dict[str, Counter[str]] = {  # reason -> folder or suffix -> images
            reason: Counter() for reason in (_HIDDEN, _OUTSIDE, _FORMAT)
        }
        self._suffixes = readable_suffixes()

    def find_classes(self, split: str) -> list[str]:
        """Return the names of a split's class folders, sorted."""
        names = []
        for entry in self._list_entries(self.root / split):
            if _is_skipped(entry.name):
                self._count_skipped(entry)
            elif _is_folder(entry):
                names.append(entry.name)
            elif self._is_image(entry.name):
                self._skipped[_OUTSIDE][split] += 1
            else:
                self._check_link(entry)
        return names

    def find_images(self, split: str, name: str) -> list[Path]:
        """Return the image files of a class, at any depth, sorted by path."""
        images: list[Path] = []
        start = self.root / split / name
        # Each folder is stored with the real paths of the folders above it, because a link to one of them
        # is a loop.
        top = (Path(os.path.realpath(start.parent)),)
        folders: list[tuple[Path, tuple[Path, ...]]] = [(start, top)]
        while folders:
            folder, parents = folders.pop()
            real_path = Path(os.path.realpath(folder))
            if folder.is_symlink() and any(p.is_relative_to(real_path) for p in parents):
                self.problems.append(
                    f"{printable(folder)} is a symbolic link to a folder that contains it; remove it"
                )
                continue
            for entry in self._list_entries(folder):
                if _is_skipped(entry.name):
                    self._count_skipped(entry)
                elif _is_folder(entry):
                    folders.append((Path(entry.path), (*parents, real_path)))
                elif self._is_image(entry.name):
                    self._check_file(entry)
                    images.append(Path(entry.path))
                elif (mimetypes.guess_type(entry.name)[0] or "").startswith("image/"):
                    self._skipped[_FORMAT][Path(entry.name).suffix.lower()] += 1
                else:
                    self._check_link(entry)
        return sorted(images)

    def raise_problems(self) -> None:
        """Raise all problems of the scan so far.

        Raises:
            InputError: there are problems; the first ten are named.
        """
        if others := self.problems[_MAX_PROBLEMS:]:
            raise InputError(*self.problems[:_MAX_PROBLEMS], f"... and {len(others)} more")
        if self.problems:
            raise InputError(*self.problems)

    def notes(self) -> list[str]:
        """Describe the skipped images and folders, a sentence each."""
        notes = [
            f"{self.data_set}: images skipped because {reason}: {counts.total()} "
            f"({join_names(f'{place}: {count}' for place, count in sorted(counts.items()))})"
            for reason, counts in self._skipped.items()
            if counts
        ]
        other_folders = [
            entry.name
            for entry in self._list_entries(self.root)
            if entry.name not in OFFICIAL_SPLITS
            and not _is_skipped(entry.name)
            and _is_folder(entry)
        ]
        if other_folders:
            notes.append(
                f"{self.data_set}: folders other than train and test are skipped: "
                f"{join_names(other_folders)}; validation images are taken from train: "
                "data.val_fraction sets their share"
            )
        return notes

    def _list_entries(self, folder: Path) -> list[os.DirEntry[str]]:
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
        """Record a broken link as a problem: it may have led to a folder of images."""
        if entry.is_symlink():
            self._check_file(entry)

    def _count_skipped(self, entry: os.DirEntry[str]) -> None:
        """Count the images in a skipped file or folder."""
        place = Path(entry.path).relative_to(self.root)
        if entry.is_dir(follow_symlinks=False):
            # `walk` ignores unreadable folders, whose files are skipped in any case.
            files = (name for _, _, names in os.walk(entry.path) for name in names)
            count = sum(map(self._is_image, files))
        else:
            # Editors lock a file with a dangling link, which is not an image.
            is_file = explain_unusable(Path(entry.path)) is None
            count = int(is_file and self._is_image(entry.name))
            place = place.parent / ".*"
        if count:
            self._skipped[_HIDDEN][place.as_posix()] += count


def _is_skipped(name: str) -> bool:
    """Return whether a name is that of a hidden file or folder, or of a folder for a tool's copies."""
    return name.startswith(".") or name.casefold() in _TOOL_FOLDERS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to a folder; a circular link is neither."""
    try:
        return entry.is_dir()
    except OSError:
        return False
