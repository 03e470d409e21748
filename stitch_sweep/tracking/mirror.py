"""A copy of an experiment folder at a URI, from which another machine can go on.

The ledger stays the truth, on the driver's disk. The copy follows it, a little behind: the loss of that
disk costs the trials of the last seconds and no others, and run again they come out the same.
"""

from __future__ import annotations

import hashlib
import re
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
from pyarrow import fs

from stitch_sweep.core.credentials import conceal, public_uri
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import size
from stitch_sweep.storage.files import atomic, write_atomically
from stitch_sweep.storage.ledger import Ledger, some
from stitch_sweep.storage.records import (
    LARGEST_RECORD,
    RecordError,
    unseal_description,
    unseal_record,
)

POLL_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
"""So long a finished sweep waits for a place that takes nothing."""

_SWEEP = "ledger/sweep.json"
_RECORDS = "ledger/trials"
_CHECKPOINTS = "ledger/checkpoints"
_STITCHES = "stitches"
_RESOLVED = "config.resolved.yml"

_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_TRIAL = rf"{_NAME}-n[0-9]+"
# What we write into an experiment folder. The user's own files lie there too: config.yml, which may
# hold a password, and, where the folder is the current one, data, networks or a repository.
_OURS = {
    place: re.compile(pattern)
    for place, pattern in {
        "ledger": r"sweep\.json",
        _RECORDS: rf"{_TRIAL}\.json",
        _CHECKPOINTS: rf"{_TRIAL}(\.previous)?",
        _STITCHES: rf"{_TRIAL}\.safetensors",
        ".": r"config\.resolved\.yml|(results|predictions|traj)\.parquet|traj\.pkl|optuna\.log"
        r"|summary\.json|pareto\.csv|report\.html|\.(analysis|report|sweep)\.json",
        "matrices": rf"{_NAME}\.csv",
        "figures": rf"{_NAME}\.(png|pdf)",
        "tables": rf"{_NAME}\.(csv|tex)",
        "measured": rf"{_NAME}\.(parquet|safetensors)|about\.json",
    }.items()
}
# Here a file appears when it is whole; elsewhere it is written under another name first.
_OBJECT_STORES = ("s3", "gcs", "abfs")
_BLOCK = 2**20


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
            reason = conceal(error, uri).partition("\n")[0]
            raise InputError(conceal(f"--mirror {public_uri(uri)}: {reason}", uri)) from None
        self._root = PurePosixPath(root)
        self._uri = uri
        self._shown = public_uri(uri)
        self._sent: dict[str, tuple[int, int]] = {}
        self._known = False
        self.notes: list[str] = []
        """About the last `fetch`: the records of the copy that can't be used."""

    def check(self, *, resume: bool) -> bool:
        """See that the copy may be written to, or read from.

        Args:
            resume: whether a sweep that is there is to be gone on with.

        Returns:
            Whether a sweep is there, so that `fetch` may find something.

        Raises:
            InputError: the URI can't be reached; it holds a sweep and `resume` isn't given, another
                sweep than the folder, or files that no sweep's copy has brought there.
        """
        there = self._description()
        if there is None:
            # The description is the first file that a copy gets, so these are somebody else's.
            if foreign := sorted(self._names()):
                raise InputError(
                    f"--mirror {self._shown}: holds {some(foreign)}, which would be replaced, and no "
                    "sweep; name a place of its own"
                )
            return False
        if not resume:
            raise InputError(
                f"--mirror {self._shown}: holds a sweep already; add --resume to go on with it, or "
                "name a place of its own"
            )
        here = Ledger(self._folder).description()
        if here is not None and here["id"] != there["id"]:
            raise InputError(
                f"--mirror {self._shown}: holds another sweep than {self._folder}; a sweep's copy "
                "needs a place of its own"
            )
        return True

    def fetch(self) -> int:
        """Bring the trials that the folder lacks, or that ended elsewhere while they ran here.

        All of them, where the folder holds no sweep. What has ended here stays as it is, and views are
        not brought: they are rebuilt. Cut off at any moment, the next call goes on.

        Returns:
            How many trials were brought.

        Raises:
            InputError: the copy can't be read, or something in it names a file outside of it.
        """
        names = self._names()
        there, ledger = self._description() or {}, Ledger(self._folder)
        here = ledger.description()
        # A sweep can only grow. First of all, so that the folder knows whose trials it holds.
        # The description comes first: it shows that what follows is a sweep's.
        if here is None or there.get("trials", 0) > here.get("trials", 0):
            self._bring_json(_SWEEP)
            self._bring_json(_RESOLVED)
        elif not (self._folder / _RESOLVED).exists():
            self._bring_json(_RESOLVED)
        self.notes = []
        records = sorted(name for name in names if _place(name) == _RECORDS)
        return sum(self._fetch_trial(PurePosixPath(name).stem, ledger, names) for name in records)

    def send(self) -> Iterator[str]:
        """Bring the copy up to the folder, and yield each file's name once it is there.

        Killed at any moment, it leaves a copy that can be resumed from: a trial's record is read before
        its stitch is sent, and sent after it.
        """
        if not self._known:
            self.check(resume=True)  # not another sweep's
            self._known = True
        found = dict(self._files())
        changed = [name for name, stamp in found.items() if self._sent.get(name) != stamp]
        records = [name for name in changed if _place(name) == _RECORDS]
        if _SWEEP in changed:
            yield from self._send_file(_SWEEP, found[_SWEEP])
        for name in records:
            data = _content(self._folder / name)
            if data is None or not self._is_record(name, data):
                continue  # a damaged one would replace a good one
            # Looked for now: its trial may have ended after we had made our list.
            stitch = _stitch_of(PurePosixPath(name).stem)
            stamp = _stamp(self._folder / stitch)
            if stamp is not None and self._sent.get(stitch) != stamp:
                yield from self._send_file(stitch, stamp)
            self._write(name, data)
            self._sent[name] = found[name]
            yield name
        for name in changed:
            if self._sent.get(name) != found[name] and _place(name) != _RECORDS:
                yield from self._send_file(name, found[name])
        # Checkpoints of trials that have ended, stitches that were beaten, figures that are stale.
        for name in [name for name in self._sent if not (self._folder / name).exists()]:
            # Where the whole folder is gone, the copy is all that there is.
            if _place(name) == _RECORDS or not (self._folder / _SWEEP).exists():
                continue
            self._delete(name)
            del self._sent[name]

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for place, pattern in _OURS.items():
            for path in (self._folder / place).glob("*"):
                if pattern.fullmatch(path.name) and (stamp := _stamp(path)) is not None:
                    yield path.relative_to(self._folder).as_posix(), stamp

    def _send_file(self, name: str, stamp: tuple[int, int]) -> Iterator[str]:
        data = _content(self._folder / name)
        if data is not None:
            self._write(name, data)
            self._sent[name] = stamp
            yield name

    def _fetch_trial(self, trial: str, ledger: Ledger, names: set[str]) -> bool:
        """Bring a trial's record after what goes with it; whether the folder needed it."""
        before = ledger.read(trial)
        if before is not None and before["status"] != "running":
            return False
        name = f"{_RECORDS}/{trial}.json"
        data = self._read(name)
        if data is None:
            return False
        try:
            record = unseal_record(data, f"--mirror {self._shown}: {name}", trial)
        except RecordError as error:
            self.notes.append(f"{error.path}: {error.reason}; its trial runs again")
            return False
        ended = record["status"] != "running"
        if before is not None and not ended:
            return False
        checkpoint = f"{_CHECKPOINTS}/{trial}"
        with_it = [_stitch_of(trial)] if ended else [checkpoint, f"{checkpoint}.previous"]
        for other in with_it:
            if other in names:
                self._bring(other, record.get("stitch") if ended else None)
        write_atomically(self._folder / name, data)
        if ended:
            ledger.forget_checkpoints(trial)
        return True

    def _bring_json(self, name: str) -> None:
        data = self._read(name)
        if data is not None:
            write_atomically(self._folder / name, data)

    def _bring(self, name: str, expected: dict[str, Any] | None) -> None:
        """Bring a file of any size; none that isn't the one that a record tells of."""
        try:
            with self._fs.open_input_stream(self._path(name)) as stream:
                digest = hashlib.sha256()
                with atomic(self._folder / name) as temporary, temporary.open("wb") as file:
                    _copy(stream, file, digest)
                    if expected is not None and digest.hexdigest() != expected["sha256"]:
                        raise _DamagedError
        except FileNotFoundError:
            return
        except _DamagedError:
            self.notes.append(f"--mirror {self._shown}: {name} is damaged, and was not brought")

    def _names(self) -> set[str]:
        """What of ours is in the copy."""
        selector = fs.FileSelector(str(self._root), recursive=True, allow_not_found=True)
        try:
            found = self._fs.get_file_info(selector)
        except OSError as error:
            raise self._unreadable(error) from None
        paths = [PurePosixPath(i.path) for i in found if i.type == fs.FileType.File]
        names = {path.relative_to(self._root).as_posix() for path in paths}
        for name in sorted(names):
            if ".." in PurePosixPath(name).parts:
                raise InputError(
                    f"--mirror {self._shown}: holds {name!r}, which is a path out of it; nothing was "
                    "brought"
                )
        return {name for name in names if _is_ours(name)}

    def _path(self, name: str) -> str:
        return str(self._root / name)

    def _is_record(self, name: str, data: bytes) -> bool:
        try:
            unseal_record(data, name, PurePosixPath(name).stem)
        except RecordError:
            return False
        return True

    def _read(self, name: str) -> bytes | None:
        """A file of the size of a record; None where there is none."""
        try:
            kind = self._fs.get_file_info(self._path(name)).type
            if kind == fs.FileType.NotFound:
                return None
            if kind != fs.FileType.File:
                raise InputError(f"--mirror {self._shown}: {name} is not a regular file")
            with self._fs.open_input_stream(self._path(name)) as stream:
                data: bytes = stream.read(LARGEST_RECORD + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error) from None
        if len(data) > LARGEST_RECORD:
            raise InputError(
                f"--mirror {self._shown}: {name} is larger than {size(LARGEST_RECORD)}, the most that "
                "is read"
            )
        return data

    def _unreadable(self, error: OSError) -> InputError:
        why = (error.strerror or str(error)).partition("\n")[0]
        return InputError(self.conceal(f"--mirror {self._shown}: can't be read: {why}"))

    def conceal(self, text: object) -> str:
        """A text, such as an error of the file system, without the URI's credentials."""
        return conceal(text, self._uri)

    def _write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        place = path if self._fs.type_name in _OBJECT_STORES else _temporary(path)
        if place != path:
            self._fs.create_dir(str(PurePosixPath(path).parent), recursive=True)
        with self._fs.open_output_stream(place) as stream:
            stream.write(data)
        if place != path:
            self._fs.move(place, path)

    def _delete(self, name: str) -> None:
        if self._fs.get_file_info(self._path(name)).type == fs.FileType.File:
            self._fs.delete_file(self._path(name))

    def _description(self) -> dict[str, Any] | None:
        """What the copy is of; None where no sweep is."""
        data = self._read(_SWEEP)
        if data is None:
            return None
        try:
            return unseal_description(data, _SWEEP)
        except RecordError as error:
            raise InputError(f"--mirror {self._shown}: its {_SWEEP} {error.reason}") from None


class Mirroring:
    """A mirror kept up to date by a thread, which a slow or dead place holds up and nothing else.

    The thread lives as long as a `with` block. Left without `finish`, it sends no further file.

    Args:
        mirror: whose `send` is called again and again.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._over = threading.Event()
        self._left = threading.Event()
        self._heard = time.monotonic()
        self.error = ""
        self.complete = False
        # A daemon: a call that hangs must not keep the sweep's process from ending.
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()
        self._over.set()
        # Not for ever: one that hangs in a call ends when that does.
        self._thread.join(POLL_SECONDS)

    def finish(self, patience: float = PATIENCE_SECONDS) -> bool:
        """Send the rest; False when the place took nothing for `patience` seconds."""
        self._heard = time.monotonic()
        self._over.set()
        while self._thread.is_alive() and time.monotonic() - self._heard < patience:
            self._thread.join(timeout=0.1)
        return self.complete

    def _follow(self) -> None:
        wait = POLL_SECONDS
        while not (self.complete or self._left.is_set()):
            last = self._over.is_set()  # asked before sending: what is written later is sent again
            try:
                for _ in self._mirror.send():
                    self._heard = time.monotonic()
                    if self._left.is_set():
                        return
                self.error, wait = "", POLL_SECONDS
                self.complete = last
            except Exception as error:  # whatever a file system throws, we try again
                said = self._mirror.conceal(f"{type(error).__name__}: {error}")
                self.error = said.partition("\n")[0]
                wait = min(2 * wait, 30.0)
                if last:
                    self._left.wait(min(wait, 2.0))
            if not last:
                self._over.wait(wait)


def _place(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _is_ours(name: str) -> bool:
    pattern = _OURS.get(_place(name))
    return pattern is not None and pattern.fullmatch(PurePosixPath(name).name) is not None


def _stitch_of(trial: str) -> str:
    return f"{_STITCHES}/{trial}.safetensors"


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes whenever a file does; None where there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (found.st_mtime_ns, found.st_size) if stat.S_ISREG(found.st_mode) else None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _temporary(path: str) -> str:
    # Always the same for a file, so that a copy that is killed again and again leaves one.
    digest = hashlib.sha256(path.encode()).hexdigest()[:16]
    return str(PurePosixPath(path).parent / f".{digest}.tmp")


class _DamagedError(Exception):
    """A file of the copy that isn't the one that its record tells of."""


def _copy(source: Any, target: IO[bytes], digest: Any) -> None:
    while block := source.read(_BLOCK):
        digest.update(block)
        target.write(block)
