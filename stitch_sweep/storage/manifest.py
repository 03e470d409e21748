"""Manifests: lists of the files that Stitch Sweep made, so that no other file is replaced or removed.

Each writer of the package has its own manifest: a hidden JSON file in the folder of its files, with
names and SHA-256 checksums. `layout` has the names of the manifests.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import MIB, UnreadableFileError, list_briefly, read_json
from stitch_sweep.storage.files import write_atomically

_LARGEST = 16 * MIB
_MOST_NAMED = 5
"""Largest number of files that are named in a message."""


class Manifest:
    """The manifest of one writer: names and checksums of the files it made.

    Args:
        path: path of the manifest, in the folder that the names are relative to.
        pattern: pattern of the writer's file names; other names in the manifest are ignored.
        others: names of other manifests in the folder, whose files this writer may replace too.
    """

    def __init__(self, path: Path, pattern: re.Pattern[str], others: Collection[str] = ()) -> None:
        self.path = path
        self.folder = path.parent
        self._pattern = pattern
        self._files = _read(path, pattern)
        self._others = [_read(self.folder / name, pattern) for name in others]

    @property
    def names(self) -> set[str]:
        """Names of the files in the manifest, relative to the folder."""
        return set(self._files)

    def check_free(self, names: Collection[str], remedy: str) -> None:
        """Check that all existing files with these names were made by Stitch Sweep.

        Args:
            names: names of the files to write, relative to the folder.
            remedy: advice of the message, besides moving the files away.

        Raises:
            InputError: a file, folder or link is in the way.
        """
        blocking = [name for name in sorted(names) if self._blocks(name)]
        if blocking:
            listed = list_briefly([str(self.folder / name) for name in blocking], _MOST_NAMED)
            raise InputError(
                f"{listed}: would be replaced, but no manifest says that Stitch Sweep made it; "
                f"move it away, or {remedy}"
            )

    def _blocks(self, name: str) -> bool:
        path = self.folder / name
        if not path.exists() and not path.is_symlink():
            # A file may have the name of a parent folder.
            return any((self.folder / p).is_file() for p in list(Path(name).parents)[:-1])
        is_listed = name in self._files or any(name in other for other in self._others)
        return path.is_dir() or not is_listed

    def begin(self, current: Collection[str]) -> None:
        """List files before they are written, because files that are not listed are never removed."""
        self._write({**dict.fromkeys(current), **self._files})

    def finish(self, current: Collection[str]) -> None:
        """Remove listed files that are no longer made, and list the current files with checksums.

        A file that was changed since it was made is kept.
        """
        for name in self.names - set(current):
            path = self.folder / name
            if _is_own_file(path) and self._is_unchanged(path, name):
                path.unlink()
        self._files = {name: _checksum(self.folder / name) for name in sorted(current)}
        self._write(self._files)

    def _is_unchanged(self, path: Path, name: str) -> bool:
        stored = [files[name] for files in (self._files, *self._others) if name in files]
        # Manifests of earlier versions have no checksums.
        return None in stored or _checksum(path) in stored

    def _write(self, files: dict[str, str | None]) -> None:
        content = json.dumps({"files": dict(sorted(files.items()))}, indent=1) + "\n"
        write_atomically(self.path, content.encode())


@contextmanager
def replacing_files(manifest: Manifest, current: Collection[str], remedy: str) -> Iterator[None]:
    """Keep a manifest up to date around a block that writes files, and remove outdated files after it.

    Args:
        manifest: manifest of the files.
        current: names of all files that the block writes.
        remedy: see `Manifest.check_free`.

    Raises:
        InputError: an existing file may not have been made by Stitch Sweep; nothing was written.
    """
    manifest.check_free(current, remedy)
    manifest.begin(current)
    yield
    manifest.finish(current)


def _read(path: Path, pattern: re.Pattern[str]) -> dict[str, str | None]:
    """Read names and checksums; empty if the manifest is missing or not valid."""
    try:
        files = read_json(path, _LARGEST).get("files")
    except (FileNotFoundError, NotADirectoryError, UnreadableFileError):
        return {}
    if isinstance(files, list):  # a manifest of an earlier version
        files = dict.fromkeys(name for name in files if isinstance(name, str))
    if not isinstance(files, dict):
        return {}
    return {
        name: checksum if isinstance(checksum, str) else None
        for name, checksum in files.items()
        if pattern.fullmatch(name)
    }


def _is_own_file(path: Path) -> bool:
    """Return whether a path is a regular file that is not reached through a link."""
    return path.is_file() and not path.is_symlink() and not path.parent.is_symlink()


def _checksum(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
