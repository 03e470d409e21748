"""Atomic writes: files are complete or absent, even if the process crashes."""

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
        with suppress(OSError):  # if the file can't be written, it can't be removed either
            temporary.unlink(missing_ok=True)
        # Name `path`, because the temporary name means nothing to a user.
        if isinstance(error, OSError) and (
            error.errno in _STORAGE_ERRORS or str(error.filename) == str(temporary)
        ):
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
        raise


def is_storage_error(error: BaseException | None) -> bool:
    """Return whether a disk is full, read-only, not accessible or broken, so that a retry can't help."""
    return isinstance(error, OSError) and error.errno in _STORAGE_ERRORS


def explain_stop(reason: str) -> str:
    """Return the message of a sweep that stopped because its folder can't be read or written."""
    return (
        f"the sweep stopped: {reason}. All ended trials are recorded; when writing works again "
        "(if the disk is full, free some space), run the same command with --resume to "
        "continue"
    )


def check_writable(path: Path, label: str) -> None:
    """Check that a file or folder can be written, before work whose result goes there starts.

    Args:
        path: file or folder; its parents need not exist.
        label: name of the path in messages.

    Raises:
        InputError: it can't be written.
    """
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise InputError(f"{label} {path}: can't be written: {error.strerror}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is complete or absent at any moment."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def temporary_path(path: Path) -> Path:
    """Return a new temporary path in the folder of `path`, named `.<16 hex digits>.tmp`."""
    # Only the owner can read files of the module tempfile, but groups share results.
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
            # A process that was just killed may still complete its replacement.
            Path(entry.path).unlink(missing_ok=True)
