"""A copy of an experiment folder at a URI, from which another machine can go on.

The ledger stays the truth, on the driver's disk. The copy follows it, a little behind: the loss of that
disk costs the trials of the last seconds and no others, and run again they come out the same.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from stitch_sweep.credentials import public
from stitch_sweep.errors import InputError
from stitch_sweep.files import write_atomically

POLL_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
"""So long a finished sweep waits for a place that takes nothing."""

_SWEEP = "ledger/sweep.json"
_RECORDS = "ledger/trials/"
_LOCKS = ("ledger/lock", "ledger/lock.json", "ledger/tracking.lock", "ledger/mirror.lock")
# Here a file appears when it is whole; elsewhere it is written under another name first.
_OBJECT_STORES = ("s3", "gcs", "abfs")


class Mirror:
    """A folder's copy below a URI.

    Args:
        folder: the experiment folder.
        uri: any that pyarrow's file systems know, such as `s3://bucket/prefix` or `file:///mnt/lab/x`.
            Credentials come from the environment, as the file system's own tools take them.

    Raises:
        InputError: pyarrow can't make anything of the URI.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder
        try:
            self._fs, root = fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(public(f"--mirror {uri}: {reason}")) from None
        self._root = PurePosixPath(root)
        self._shown = public(uri)
        self._sent: dict[str, tuple[int, int]] = {}
        self._known = False

    def check(self, *, resume: bool) -> bool:
        """See that the copy may be written to, or read from.

        Args:
            resume: whether a sweep that is there is to be gone on with.

        Returns:
            Whether a sweep is there and none in the folder, so that `fetch` is needed.

        Raises:
            InputError: the URI can't be reached; it holds a sweep and `resume` isn't given, or another
                sweep than the folder.
        """
        there = self._identity(self._read(_SWEEP))
        local = self._folder / _SWEEP
        here = self._identity(local.read_bytes() if local.is_file() else None)
        if there is None:
            return False
        if not resume:
            raise InputError(
                f"--mirror {self._shown}: holds a sweep already; add --resume to go on with it, or "
                "name a place of its own"
            )
        if here is not None and here != there:
            raise InputError(
                f"--mirror {self._shown}: holds another sweep than {self._folder}; a sweep's copy "
                "needs a place of its own"
            )
        return here is None

    def fetch(self) -> int:
        """Bring the copy into the folder; returns how many files.

        `sweep.json` comes last: without it, an interrupted fetch is begun again.
        """
        selector = fs.FileSelector(str(self._root), recursive=True)
        files = [i.path for i in self._fs.get_file_info(selector) if i.type == fs.FileType.File]
        names = [PurePosixPath(path).relative_to(self._root).as_posix() for path in files]
        names = [name for name in names if not name.endswith(".tmp")]
        for name in sorted(names, key=lambda name: name == _SWEEP):
            data = self._read(name)
            if data is not None:
                write_atomically(self._folder / name, data)
        return len(names)

    def send(self) -> Iterator[str]:
        """Bring the copy up to the folder, and yield each file's name once it is there.

        Killed at any moment, it leaves a copy that can be resumed from: a trial's record is read before
        its stitch is sent, and sent after it.
        """
        if not self._known:
            self.check(resume=True)  # not another sweep's
            self._known = True
        found = {name: stamp for name, stamp in self._files() if self._sent.get(name) != stamp}
        records = {
            name: data
            for name in found
            if name.startswith(_RECORDS) and (data := _content(self._folder / name)) is not None
        }
        rest = [name for name in found if name not in records]
        for name in sorted(rest, key=lambda name: name != _SWEEP):
            data = _content(self._folder / name)
            if data is not None:
                self._write(name, data)
                self._sent[name] = found[name]
                yield name
        for name, data in records.items():
            self._write(name, data)
            self._sent[name] = found[name]
            yield name
        # Checkpoints of trials that have ended, stitches that were beaten.
        for name in [name for name in self._sent if not (self._folder / name).exists()]:
            self._delete(name)
            del self._sent[name]

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder).as_posix()
            if path.name.endswith(".tmp") or name in _LOCKS:
                continue
            try:
                if path.is_file():
                    stat = path.stat()
                    yield name, (stat.st_mtime_ns, stat.st_size)
            except FileNotFoundError:
                continue  # it was a checkpoint of a trial that has just ended

    def _path(self, name: str) -> str:
        return str(self._root / name)

    def _read(self, name: str) -> bytes | None:
        try:
            with self._fs.open_input_stream(self._path(name)) as stream:
                data: bytes = stream.read()
                return data
        except FileNotFoundError:
            return None
        except OSError as error:
            why = (error.strerror or str(error)).partition("\n")[0]
            raise InputError(public(f"--mirror {self._shown}: can't be read: {why}")) from None

    def _write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        place = path if self._fs.type_name in _OBJECT_STORES else f"{path}.tmp"
        if place != path:
            self._fs.create_dir(str(PurePosixPath(path).parent), recursive=True)
        with self._fs.open_output_stream(place) as stream:
            stream.write(data)
        if place != path:
            self._fs.move(place, path)

    def _delete(self, name: str) -> None:
        if self._fs.get_file_info(self._path(name)).type == fs.FileType.File:
            self._fs.delete_file(self._path(name))

    def _identity(self, data: bytes | None) -> str | None:
        if data is None:
            return None
        try:
            return str(json.loads(data)["id"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"--mirror {self._shown}: its {_SWEEP} is damaged") from None


class Mirroring:
    """A mirror kept up to date by a thread, which a slow or dead place holds up and nothing else.

    Args:
        mirror: whose `send` is called again and again.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._over = threading.Event()
        self._heard = time.monotonic()
        self.error = ""
        self.complete = False
        # A daemon: a call that hangs must not keep the sweep's process from ending.
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def finish(self, patience: float = PATIENCE_SECONDS) -> bool:
        """Send the rest; False when the place took nothing for `patience` seconds."""
        self._heard = time.monotonic()
        self._over.set()
        while self._thread.is_alive() and time.monotonic() - self._heard < patience:
            self._thread.join(timeout=0.1)
        return self.complete

    def _follow(self) -> None:
        wait = POLL_SECONDS
        while not self.complete:
            last = self._over.is_set()  # asked before sending: what is written later is sent again
            try:
                for _ in self._mirror.send():
                    self._heard = time.monotonic()
                self.error, wait = "", POLL_SECONDS
                self.complete = last
            except Exception as error:  # whatever a file system throws, we try again
                self.error = public(f"{type(error).__name__}: {error}".partition("\n")[0])
                wait = min(2 * wait, 30.0)
                if last:
                    time.sleep(min(wait, 2.0))
            if not last:
                self._over.wait(wait)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
