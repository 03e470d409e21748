"""The lock of a ledger: one process may write at a time, into a folder that belongs to a sweep."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import UnreadableFileError, list_briefly, printable, read_json
from stitch_sweep.storage import layout, locks
from stitch_sweep.storage.files import write_atomically

_LARGEST_HOLDER = 2**16
"""Largest file that names the holder of the lock, in bytes."""


class LedgerBusyError(InputError):
    """Another process is writing this ledger."""


def check_place(root: Path) -> None:
    """Check that `ledger/` is free or belongs to a sweep.

    Args:
        root: the folder `ledger/`.

    Raises:
        InputError: it is a file, a broken link, or contains foreign files.
    """
    remedy = "move it away, or run the sweep in another folder"
    if not root.is_dir():
        if root.exists() or root.is_symlink():
            kind = "is a broken symbolic link" if root.is_symlink() else "is a file"
            raise InputError(f"{root}: {kind}, but a sweep keeps its records there; {remedy}")
        return
    if (root / layout.DESCRIPTION).exists():
        return
    foreign = sorted(entry.name for entry in root.iterdir() if not _is_leftover(entry))
    if foreign:
        raise InputError(
            f"{root}: contains {list_briefly(foreign)}, which no sweep made, but a sweep keeps its "
            f"records in a folder of this name; {remedy}"
        )


def acquire(root: Path) -> FileLock:
    """Acquire the lock. The operating system releases it when the process dies.

    Args:
        root: the folder `ledger/`, which is created.

    Raises:
        LedgerBusyError: another process holds the lock; the message names the process.
        InputError: see `check_place`.
    """
    check_place(root)
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / layout.LOCK)
    try:
        lock.acquire(timeout=1)  # `status` may hold the lock for a moment
    except Timeout:
        holder = _read_holder(root / layout.LOCK_HOLDER) or {}
        raise LedgerBusyError(
            f"{root.parent}: another sweep is running in this folder "
            f"(process {holder.get('pid', '?')} on {printable(holder.get('host', '?'))}); wait for it "
            "or stop it"
        ) from None
    content = {"pid": os.getpid(), "host": socket.gethostname()}
    write_atomically(root / layout.LOCK_HOLDER, json.dumps(content).encode())
    return lock


def is_locked(root: Path) -> bool:
    """Return whether a process holds the lock."""
    return locks.is_held(root / layout.LOCK)


def discard(root: Path) -> None:
    """Remove the files and folders of a sweep that did not start, while its lock is held.

    All other files in `ledger/` are kept, and then the folder is kept too.
    """
    for name in (layout.LOCK, layout.LOCK_HOLDER, layout.TRACKING_LOCK):
        if (path := root / name).is_file() and _is_leftover(path):
            path.unlink()
    for folder in (root / layout.RECORDS, root / layout.CHECKPOINTS, root):
        with suppress(OSError):  # not empty, or a symbolic link of the user
            folder.rmdir()


def _is_leftover(entry: Path) -> bool:
    """Return whether an entry of `ledger/` is hidden, or may come from a sweep that did not start."""
    if entry.name.startswith("."):  # notes of a file manager, or temporary files; never touched
        return True
    if entry.is_symlink():
        return False
    if entry.name in (layout.RECORDS, layout.CHECKPOINTS):
        return entry.is_dir()
    if entry.name in (layout.LOCK, layout.TRACKING_LOCK):
        return entry.is_file() and entry.stat().st_size == 0
    return entry.name == layout.LOCK_HOLDER and _read_holder(entry) is not None


def _read_holder(path: Path) -> dict[str, Any] | None:
    """Return the process that holds the lock; None if `acquire` did not write the file."""
    try:
        holder = read_json(path, _LARGEST_HOLDER)
    except (FileNotFoundError, UnreadableFileError):
        return None
    is_valid = isinstance(holder.get("pid"), int) and isinstance(holder.get("host"), str)
    return holder if is_valid and len(holder) == 2 else None
