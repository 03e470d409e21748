"""Lists of the files that Stitch Sweep made in a folder, so that nothing else is replaced or removed.

Each of the package's writers has a list of its own: a hidden JSON file beside what it writes, with names
and SHA-256 checksums.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import UnreadableFileError, printable, read_json
from stitch_sweep.storage.files import write_atomically

ANALYSIS = ".analysis.json"
REPORT = ".report.json"
ASSEMBLY = ".assembly.json"
SWEEP = ".sweep.json"

_LARGEST = 16 * 2**20
_NAMED = 5


class Manifest:
    """The list of the files that one writer made.

    Args:
        path: the list, in the folder that names are relative to.
        pattern: what the name of a listed file looks like; other names in it count for nothing.
        others: names of lists, beside this one, whose files this writer may replace too.
    """

    def __init__(self, path: Path, pattern: re.Pattern[str], others: Collection[str] = ()) -> None:
        self.path = path
        self.folder = path.parent
        self._pattern = pattern
        self._files = _read(path, pattern)
        self._others = [_read(self.folder / name, pattern) for name in others]

    @property
    def names(self) -> set[str]:
        """Names of the files that were made, relative to the folder."""
        return set(self._files)

    def check_free(self, names: Collection[str], remedy: str) -> None:
        """Check that whatever lies under these names was made by Stitch Sweep.

        Args:
            names: of files that are to be written, relative to the folder.
            remedy: what messages advise besides moving the files.

        Raises:
            InputError: a file, a folder or a link is in the way.
        """
        blocking = [name for name in sorted(names) if self._blocks(name)]
        if blocking:
            listed = ", ".join(printable(self.folder / name) for name in blocking[:_NAMED])
            more = f" and {len(blocking) - _NAMED} more" if len(blocking) > _NAMED else ""
            raise InputError(
                f"{listed}{more}: would be replaced, and nothing shows that Stitch Sweep made it; "
                f"move it away, or {remedy}"
            )

    def _blocks(self, name: str) -> bool:
        path = self.folder / name
        if not path.exists() and not path.is_symlink():
            # A file may lie where its folder should be.
            return any((self.folder / p).is_file() for p in list(Path(name).parents)[:-1])
        is_listed = name in self._files or any(name in other for other in self._others)
        return path.is_dir() or not is_listed

    def begin(self, current: Collection[str]) -> None:
        """List files before they are written: one that is made and not listed would stay for ever."""
        self._write({**dict.fromkeys(current), **self._files})

    def finish(self, current: Collection[str]) -> None:
        """Remove listed files that are no longer made, and list those that are, with checksums.

        A file that was changed since it was made is left where it is.
        """
        for name in self.names - set(current):
            path = self.folder / name
            if _is_own_file(path) and self._is_unchanged(path, name):
                path.unlink()
        self._files = {name: _checksum(self.folder / name) for name in sorted(current)}
        self._write(self._files)

    def _is_unchanged(self, path: Path, name: str) -> bool:
        stored = [files[name] for files in (self._files, *self._others) if name in files]
        # Lists of earlier versions have no checksums.
        return None in stored or _checksum(path) in stored

    def _write(self, files: dict[str, str | None]) -> None:
        content = json.dumps({"files": dict(sorted(files.items()))}, indent=1) + "\n"
        write_atomically(self.path, content.encode())


@contextmanager
def in_step(manifest: Manifest, current: Collection[str], remedy: str) -> Iterator[None]:
    """Around the writing of files: a file that an earlier call wrote and this one doesn't is removed.

    Args:
        manifest: the list of the files.
        current: names of all files that the block writes.
        remedy: see `Manifest.check_free`.

    Raises:
        InputError: a file in the way isn't known to be Stitch Sweep's; nothing was written.
    """
    manifest.check_free(current, remedy)
    manifest.begin(current)
    yield
    manifest.finish(current)


def _read(path: Path, pattern: re.Pattern[str]) -> dict[str, str | None]:
    """Listed names with their checksums; none where the list can't be used."""
    try:
        files = read_json(path, _LARGEST).get("files")
    except (FileNotFoundError, NotADirectoryError, UnreadableFileError):
        return {}
    if isinstance(files, list):  # of an earlier version
        files = dict.fromkeys(name for name in files if isinstance(name, str))
    if not isinstance(files, dict):
        return {}
    return {
        name: checksum if isinstance(checksum, str) else None
        for name, checksum in files.items()
        if pattern.fullmatch(name)
    }


def _is_own_file(path: Path) -> bool:
    """Whether a file lies where its name says, and is not reached through a link."""
    return path.is_file() and not path.is_symlink() and not path.parent.is_symlink()


def _checksum(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
