"""Atomic writes: files are complete or absent, whatever happens to the process."""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stitch_sweep.core.errors import InputError

_STORAGE_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
}
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Provide a temporary path beside `path`, which replaces `path` when the block ends without an error.

    Readers see the old file or the complete new file, even if the process or the machine crashes.

    Raises:
        OSError: the file can't be written, or `path` is a folder; the error names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # if writing is impossible, removing is impossible too
            temporary.unlink(missing_ok=True)
        # Name `path`, because the temporary name tells a reader nothing.
        if isinstance(error, OSError) and (
            error.errno in _STORAGE_ERRORS or str(error.filename) == str(temporary)
        ):
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
        raise


def is_storage_error(error: BaseException | None) -> bool:
    """Return whether a disk is full, read-only, not accessible or broken, so that a retry can't help."""
    return isinstance(error, OSError) and error.errno in _STORAGE_ERRORS


def check_writable(path: Path, what: str) -> None:
    """Check that a file or folder can be written, before the work whose result it will contain.

    Args:
        path: file or folder; its parents need not exist.
        what: name of the path in messages.

    Raises:
        InputError: it can't be written.
    """
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise InputError(f"{what} {path}: can't be written: {error.strerror}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is complete or absent at any moment."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def temporary_path(path: Path) -> Path:
    """Return a new path beside `path`, with a name of Stitch Sweep's pattern: `.<16 hex digits>.tmp`."""
    # Not tempfile's files: only their owner can read them, and groups share results.
    return path.parent / f".{secrets.token_hex(8)}.tmp"


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed processes in a folder, without its subfolders.

    Only regular files with names of `temporary_path` are removed. No other process may be writing.
    """
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            # A process that was just killed may still complete the replacement.
            Path(entry.path).unlink(missing_ok=True)
