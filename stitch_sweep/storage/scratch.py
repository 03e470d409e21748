"""Temporary folders. A later start removes the folders of killed processes.

Each folder contains a file that its owner keeps locked. The kernel releases the lock when the owner
dies, so a folder whose lock can be acquired has no owner.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.locks import CAN_LOCK_OPEN_FILES, lock_open_file

_PREFIX = "ss-"  # short, because the length of socket paths is limited
_NAME = re.compile(r"ss-[a-z0-9_]{8}")
_LOCK = "owner.lock"
_MARK = b"stitch-sweep "
# Ray's longest socket path below its folder, r/session_DATE_TIME_PID/sockets/plasma_store, and a reserve.
_SOCKET_BYTES = 70
_REMOVE_SECONDS = 2.0


@contextmanager
def folder(*, sockets: bool = False) -> Iterator[Path]:
    """Create a private temporary folder, and remove it after the block.

    The folder is created in the system's folder for temporary files (`TMPDIR`). Leftovers of killed
    processes are removed first.

    Args:
        sockets: whether the folder must be able to contain Ray's sockets, whose paths have at most 107
            bytes on Linux. Then it is created in `RAY_TMPDIR`, if set, else in the first of `TMPDIR`,
            /tmp, /var/tmp and `XDG_RUNTIME_DIR` that is short enough and writable.

    On Windows, which can't lock open files, it is an ordinary temporary folder.

    Raises:
        InputError: no folder can be created; the message has the reason for each place.
    """
    if not CAN_LOCK_OPEN_FILES:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as unlocked:
            yield Path(unlocked)
        return
    remove_abandoned()
    folder_path, lock = _make(sockets)
    try:
        yield folder_path
    finally:
        _remove(folder_path)
        os.close(lock)


def remove_abandoned() -> list[Path]:
    """Remove this user's temporary folders whose owner is dead, and end Ray's processes that use them.

    Returns:
        The removed folders.
    """
    removed = []
    for base in _bases():
        with contextlib.suppress(OSError):
            for path in sorted(base.glob(f"{_PREFIX}*")):
                lock = _acquire_abandoned(path)
                if lock is None:
                    continue
                deadline = time.monotonic() + _REMOVE_SECONDS
                while _end_processes(path) and time.monotonic() < deadline:
                    time.sleep(0.02)  # an ending process could create its folder again
                _remove(path)
                os.close(lock)
                removed.append(path)
    return removed


def _make(sockets: bool) -> tuple[Path, int]:
    problems = []
    for base in _bases(sockets=sockets):
        folder_path = None
        try:
            folder_path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            lock = _lock(folder_path)
            if sockets:
                _check_sockets(folder_path)
            return folder_path, lock
        except OSError as error:
            problems.append(f"{base} ({error.strerror or error})")
            if folder_path is not None:
                shutil.rmtree(folder_path, ignore_errors=True)
    description = "a folder for temporary files"
    if sockets:
        description += " with a short path, for Ray's sockets,"
    raise InputError(
        f"{description} can't be created in {', '.join(problems) or 'any place'}; set "
        f"{'RAY_TMPDIR' if sockets else 'TMPDIR'} to a writable folder"
        f"{' with a short path' if sockets else ''}"
    )


def _bases(*, sockets: bool | None = None) -> list[Path]:
    """Return the possible parents of temporary folders; None stands for both values of `sockets`."""
    configured = os.environ.get("RAY_TMPDIR")
    if sockets and configured:
        return [Path(configured)]
    bases = [Path(configured)] if configured and sockets is None else []
    with contextlib.suppress(FileNotFoundError):  # no folder is writable
        bases.append(Path(tempfile.gettempdir()))
    if sockets is not False:
        bases += [Path("/tmp"), Path("/var/tmp")]
        if runtime := os.environ.get("XDG_RUNTIME_DIR"):
            bases.append(Path(runtime))
    return list(dict.fromkeys(path.absolute() for path in bases))


def _lock(folder_path: Path) -> int:
    """Lock a new folder. The file gets its name after it is locked, so no process sees it unlocked."""
    fresh = folder_path / f"{_LOCK}.new"
    lock = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(lock, _MARK + f"{os.getpid()}\n".encode())
        lock_open_file(lock)
        fresh.rename(folder_path / _LOCK)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _acquire_abandoned(path: Path) -> int | None:
    """Acquire the lock of an abandoned temporary folder of Stitch Sweep; None for any other folder."""
    try:
        status = path.lstat()
        if (
            not _NAME.fullmatch(path.name)
            or not stat.S_ISDIR(status.st_mode)
            or status.st_uid != os.geteuid()
        ):
            return None
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if stat.S_ISREG(os.fstat(lock).st_mode) and os.read(lock, 64).startswith(_MARK):
            lock_open_file(lock)
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _check_sockets(folder_path: Path) -> None:
    """Bind a socket with a path as long as Ray's longest. Some file systems allow no sockets."""
    path = folder_path / ("s" * _SOCKET_BYTES)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(path))
    path.unlink()


def _remove(path: Path) -> None:
    """Remove a folder, with its lock last. Processes of Ray that are ending may still write into it."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while True:
        with contextlib.suppress(OSError):
            for inner in path.iterdir():
                if inner.is_dir() and not inner.is_symlink():
                    shutil.rmtree(inner, ignore_errors=True)
                elif inner.name != _LOCK:
                    inner.unlink(missing_ok=True)
            if not any(inner.name != _LOCK for inner in path.iterdir()):
                (path / _LOCK).unlink(missing_ok=True)
                path.rmdir()
        if not path.exists() or time.monotonic() > deadline:
            return  # the lock file remains, so a later start removes the folder
        time.sleep(0.05)


def _end_processes(path: Path) -> bool:
    """Kill the processes of Ray that use an abandoned folder; return whether there were any.

    Ray's agents outlive a killed driver for a while. They hide their command line, so a process is
    killed if it is Ray's and has an open file in the folder.
    """
    any_killed = False
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if process.stat().st_uid != os.geteuid() or int(process.name) == os.getpid():
                continue
            command = (process / "cmdline").read_bytes()
            if not command.startswith(b"ray::") and b"/ray/" not in command:
                continue
            opened = (str(link.readlink()) for link in (process / "fd").iterdir())
            inside = f"{path}/"
            if inside.encode() in command or any(name.startswith(inside) for name in opened):
                os.kill(int(process.name), signal.SIGKILL)
                any_killed = True
    return any_killed
