"""A copy of an experiment folder at a URI, from which another machine can resume the sweep.

The ledger on the driver's disk stays the source of truth; the copy follows it. If that disk is lost, only
the trials of the last seconds are lost; they run again with the same results.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import fs

from stitch_sweep.core.credentials import conceal, redact_uri
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import LARGEST_JSON, list_briefly, size
from stitch_sweep.storage import layout
from stitch_sweep.storage.files import atomic, write_atomically
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.records import RecordError, unseal_description, unseal_record
from stitch_sweep.tracking.mirrored_files import (
    CHECKPOINTS,
    DESCRIPTION,
    RECORDS,
    Stamp,
    is_copied,
    is_record,
    list_files,
    read_stamp,
    stitch_name,
    trial_of_record,
)

# In these, a file appears once it is complete. In others, it is first written under a temporary name.
_OBJECT_STORES = ("s3", "gcs", "abfs")


class Mirror:
    """A folder's copy below a URI.

    Args:
        folder: the experiment folder.
        uri: of any file system that pyarrow knows, such as `s3://bucket/prefix` or
            `file:///mnt/lab/x`. Credentials come from the environment, as for the file system's tools.

    Raises:
        InputError: pyarrow can't use the URI.

    Attributes:
        notes: about the last `fetch`: the records of the copy that can't be used.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder
        try:
            self._fs, root = fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = conceal(error, uri).partition("\n")[0]
            raise InputError(conceal(f"--mirror {redact_uri(uri)}: {reason}", uri)) from None
        self._root = PurePosixPath(root)
        self._uri = uri
        self._shown = redact_uri(uri)
        self._sent: dict[str, Stamp] = {}
        self._is_checked = False
        self.notes: list[str] = []

    def check(self, *, resume: bool) -> bool:
        """Check that the copy may be written to, or read from.

        Args:
            resume: whether to resume an existing sweep.

        Returns:
            Whether the copy contains a sweep, which `fetch` can read.

        Raises:
            InputError: the URI can't be reached; it contains a sweep and `resume` isn't given, a
                different sweep than the folder, or files that don't belong to a sweep's copy.
        """
        description = self._read_description()
        if description is None:
            # The description is the first file of every copy, so these files are somebody else's.
            if foreign := sorted(self._names()):
                raise InputError(
                    f"--mirror {self._shown}: contains {list_briefly(foreign)}, which would be replaced, "
                    "and no sweep; give an empty location"
                )
            return False
        if not resume:
            raise InputError(
                f"--mirror {self._shown}: already contains a sweep; add --resume to resume it, or "
                "give another location"
            )
        local = Ledger(self._folder).description()
        if local is not None and local["id"] != description["id"]:
            raise InputError(
                f"--mirror {self._shown}: contains a different sweep than {self._folder}; each "
                "sweep needs a separate location"
            )
        return True

    def fetch(self) -> int:
        """Copy to the folder the trials that it lacks, or that ended on another machine.

        If the folder contains no sweep, all trials are copied. Trials that ended here stay unchanged, and
        views are not copied but rebuilt. After an interruption, the next call copies the rest.

        Returns:
            Number of trials copied.

        Raises:
            InputError: the copy can't be read, or contains a name that leads out of it.
        """
        names = self._names()
        remote, ledger = self._read_description() or {}, Ledger(self._folder)
        local = ledger.description()
        # A sweep only grows, so the longer description is the later one. The description comes first,
        # because it marks the folder as this sweep's.
        if local is None or remote.get("trials", 0) > local.get("trials", 0):
            self._fetch_small(DESCRIPTION)
            self._fetch_small(layout.RESOLVED_CONFIG)
        elif not (self._folder / layout.RESOLVED_CONFIG).exists():
            self._fetch_small(layout.RESOLVED_CONFIG)
        self.notes = []
        records = sorted(name for name in names if is_record(name))
        return sum(self._fetch_trial(trial_of_record(name), ledger, names) for name in records)

    def send(self) -> Iterator[str]:
        """Send the files that the copy lacks, and yield each file's name after it is sent.

        After an interruption at any moment, a sweep can be resumed from the copy: a trial's record is
        read before its stitch is sent, and sent after it.
        """
        if not self._is_checked:
            self.check(resume=True)  # refuses the copy of another sweep
            self._is_checked = True
        stamps = dict(list_files(self._folder))
        changed = [name for name, stamp in stamps.items() if self._sent.get(name) != stamp]
        if DESCRIPTION in changed:
            yield from self._send_file(DESCRIPTION, stamps[DESCRIPTION])
        for name in filter(is_record, changed):
            data = _read_bytes(self._folder / name)
            if data is None or not _is_valid_record(name, data):
                continue  # a damaged record would replace an intact one
            # A new stamp: the trial may have ended after the list was made.
            stitch = stitch_name(trial_of_record(name))
            stamp = read_stamp(self._folder / stitch)
            if stamp is not None and self._sent.get(stitch) != stamp:
                yield from self._send_file(stitch, stamp)
            self._write(name, data)
            self._sent[name] = stamps[name]
            yield name
        for name in changed:
            if self._sent.get(name) != stamps[name] and not is_record(name):
                yield from self._send_file(name, stamps[name])
        self._delete_removed()

    def conceal(self, text: object) -> str:
        """Return a text, such as an error of the file system, without the URI's credentials."""
        return conceal(text, self._uri)

    def _send_file(self, name: str, stamp: Stamp) -> Iterator[str]:
        data = _read_bytes(self._folder / name)
        if data is not None:
            self._write(name, data)
            self._sent[name] = stamp
            yield name

    def _delete_removed(self) -> None:
        """Delete checkpoints of ended trials, superseded stitches, and outdated figures."""
        for name in [name for name in self._sent if not (self._folder / name).exists()]:
            # If the whole folder is gone, the copy is all that is left.
            if is_record(name) or not (self._folder / DESCRIPTION).exists():
                continue
            if self._fs.get_file_info(self._path(name)).type == fs.FileType.File:
                self._fs.delete_file(self._path(name))
            del self._sent[name]

    def _fetch_trial(self, trial: str, ledger: Ledger, names: set[str]) -> bool:
        """Copy a trial's files, its record last; return whether the folder needed it."""
        before = ledger.read(trial)
        if before is not None and before["status"] != "running":
            return False
        name = f"{RECORDS}/{trial}.json"
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
        checkpoint = f"{CHECKPOINTS}/{trial}"
        attached = [stitch_name(trial)] if ended else [checkpoint, f"{checkpoint}.previous"]
        for other in attached:
            if other in names:
                self._fetch_large(other, record.get("stitch") if ended else None)
        write_atomically(self._folder / name, data)
        if ended:
            ledger.remove_checkpoints(trial)
        return True

    def _fetch_small(self, name: str) -> None:
        data = self._read(name)
        if data is not None:
            write_atomically(self._folder / name, data)

    def _fetch_large(self, name: str, expected: dict[str, Any] | None) -> None:
        """Copy a file of any size, unless its checksum differs from the record's."""
        try:
            with (
                self._fs.open_input_stream(self._path(name)) as stream,
                atomic(self._folder / name) as temporary,
            ):
                with temporary.open("wb") as file:
                    shutil.copyfileobj(stream, file)
                if expected is not None:
                    with temporary.open("rb") as file:
                        digest = hashlib.file_digest(file, "sha256").hexdigest()
                    if digest != expected["sha256"]:
                        raise _DamagedError
        except FileNotFoundError:
            return
        except _DamagedError:
            self.notes.append(f"--mirror {self._shown}: {name} is damaged and was not copied")

    def _names(self) -> set[str]:
        """Return the names of the copy's files, without files of other origin."""
        selector = fs.FileSelector(str(self._root), recursive=True, allow_not_found=True)
        try:
            entries = self._fs.get_file_info(selector)
        except OSError as error:
            raise self._unreadable(error) from None
        paths = [PurePosixPath(e.path) for e in entries if e.type == fs.FileType.File]
        names = {path.relative_to(self._root).as_posix() for path in paths}
        for name in sorted(names):
            if ".." in PurePosixPath(name).parts:
                raise InputError(
                    f"--mirror {self._shown}: contains {name!r}, a path that leads out of it; nothing "
                    "was copied"
                )
        return set(filter(is_copied, names))

    def _path(self, name: str) -> str:
        return str(self._root / name)

    def _read(self, name: str) -> bytes | None:
        """Return the content of a file no larger than a record; None if there is none."""
        try:
            kind = self._fs.get_file_info(self._path(name)).type
            if kind == fs.FileType.NotFound:
                return None
            if kind != fs.FileType.File:
                raise InputError(f"--mirror {self._shown}: {name} is not a regular file")
            with self._fs.open_input_stream(self._path(name)) as stream:
                data: bytes = stream.read(LARGEST_JSON + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error) from None
        if len(data) > LARGEST_JSON:
            raise InputError(
                f"--mirror {self._shown}: {name} is larger than the limit of {size(LARGEST_JSON)}"
            )
        return data

    def _unreadable(self, error: OSError) -> InputError:
        reason = (error.strerror or str(error)).partition("\n")[0]
        return InputError(self.conceal(f"--mirror {self._shown}: can't be read: {reason}"))

    def _write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        place = path if self._fs.type_name in _OBJECT_STORES else _temporary(path)
        if place != path:
            self._fs.create_dir(str(PurePosixPath(path).parent), recursive=True)
        with self._fs.open_output_stream(place) as stream:
            stream.write(data)
        if place != path:
            self._fs.move(place, path)

    def _read_description(self) -> dict[str, Any] | None:
        """Return the description of the copy's sweep; None if there is none."""
        data = self._read(DESCRIPTION)
        if data is None:
            return None
        try:
            return unseal_description(data, DESCRIPTION)
        except RecordError as error:
            raise InputError(f"--mirror {self._shown}: its {DESCRIPTION} {error.reason}") from None


class _DamagedError(Exception):
    """A file of the copy differs from the checksum in its trial's record."""


def _is_valid_record(name: str, data: bytes) -> bool:
    try:
        unseal_record(data, name, trial_of_record(name))
    except RecordError:
        return False
    return True


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _temporary(path: str) -> str:
    # Always the same name for a file, so that repeated interruptions leave one temporary file behind.
    digest = hashlib.sha256(path.encode()).hexdigest()[:16]
    return str(PurePosixPath(path).parent / f".{digest}.tmp")
