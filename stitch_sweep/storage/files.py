"""Files that are there whole or not at all, and checkpoints, of which the one before is kept."""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stitch_sweep.core.errors import InputError

_STORAGE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
}
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends without an error.

    Readers see the old file or the new one, never half of one, whatever happens to process or machine.

    Raises:
        OSError: it can't be written, or a folder is in its place; the error names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            temporary.unlink(missing_ok=True)
        # The temporary name says nothing to a reader.
        if isinstance(error, OSError) and (
            error.errno in _STORAGE or str(error.filename) == str(temporary)
        ):
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
        raise


def is_storage_error(error: BaseException | None) -> bool:
    """Whether a disk is full, read-only, closed to us or broken: no other process would fare better."""
    return isinstance(error, OSError) and error.errno in _STORAGE


def check_writable(path: Path, what: str) -> None:
    """See that a file or folder could be written, before the work whose result it is to hold.

    Args:
        path: of the file or folder; its parents need not exist.
        what: what messages call it.

    Raises:
        InputError: it can't.
    """
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise InputError(f"{what} {path}: can't be written: {error.strerror}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def temporary_path(path: Path) -> Path:
    """A new path beside `path`, of a pattern that nobody else's files have: `.<16 hex digits>.tmp`."""
    # Not tempfile's: its files are for their owner only, and a group reads one another's results.
    return path.parent / f".{secrets.token_hex(8)}.tmp"


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder; not in folders below it.

    Only regular files whose names `temporary_path` makes are removed. Nobody else may be writing.
    """
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            # A process that was killed just now may still be about to finish it.
            Path(entry.path).unlink(missing_ok=True)


@dataclass(frozen=True)
class Kept:
    """A checkpoint file as it was found.

    Attributes:
        path: where it lies.
        data: its bytes; None where they can't be read.
        problem: why they can't.
    """

    path: Path
    data: bytes | None
    problem: str = ""


def keep(path: Path, data: bytes) -> None:
    """Write a checkpoint; the one that was there stays as `<name>.previous`.

    Killed at any moment, it leaves every file whole, and never fewer whole ones than it found.

    Raises:
        OSError: it can't be written; what was there is as it was.
    """
    if not path.exists():
        write_atomically(path, data)
        return
    earlier = temporary_path(path)
    try:
        try:
            # A second name first: were it renamed, there would be a moment without a newest one.
            earlier.hardlink_to(path)
        except OSError:  # a file system without hard links
            write_atomically(earlier, path.read_bytes())
        write_atomically(path, data)
        earlier.replace(_previous(path))
    finally:
        with suppress(OSError):  # the error that brought us here is the one to be heard of
            earlier.unlink(missing_ok=True)


def kept(path: Path) -> list[Kept]:
    """What `keep` left at `path`, the newest first; empty where there is nothing."""
    found = []
    for candidate in (path, _previous(path)):
        try:
            if candidate.exists() and not candidate.is_file():  # reading a pipe would never end
                found.append(Kept(candidate, None, "is not a regular file"))
            else:
                found.append(Kept(candidate, candidate.read_bytes()))
        except FileNotFoundError:
            continue
        except OSError as error:
            found.append(Kept(candidate, None, error.strerror or str(error)))
    return found


def forget(path: Path) -> None:
    """Remove what `keep` left at `path`; a folder in its place is nothing of ours."""
    for candidate in (path, _previous(path)):
        if not candidate.is_dir():
            candidate.unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")
