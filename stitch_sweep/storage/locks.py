"""Locks on open files. The operating system releases a lock when its process dies."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CAN_LOCK_OPEN_FILES = fcntl is not None


def lock_open_file(descriptor: int) -> None:
    """Lock an open file for this process.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file system, or Windows, has no such locks.
    """
    if not CAN_LOCK_OPEN_FILES:
        raise OSError("this system doesn't lock open files")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Return whether a process holds the `FileLock` of a file; with `fcntl`, nothing is written."""
    if not CAN_LOCK_OPEN_FILES:
        return _is_held_without_flock(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: no process can hold a lock
        return False
    finally:
        os.close(descriptor)
    return False


def _is_held_without_flock(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        FileLock(path, timeout=0).acquire().lock.release()
    except Timeout:
        return True
    except OSError:
        return False
    return False
