"""What has happened in a sweep: the one source of truth, in files that survive any death.

A trial's record is one JSON file, written atomically before anyone else hears of the trial's end.
Results tables, Optuna's studies and MLflow's runs are views that are rebuilt from here.

    ledger/sweep.json               what the sweep is: its settings, and an id
    ledger/trials/<trial>.json      a trial: running, finished or failed
    ledger/checkpoints/<trial>      where a running trial got to; <trial>.previous is the one before
    ledger/retrained/<trial>.json   the former record of a trial that runs again for its stitch
    ledger/set_aside/               files that are damaged or that something else took the place of
    ledger/lock                     held by the one process that may write
    stitches/<trial>.safetensors    a kept stitch, whose checksum is in its trial's record

A stitch is no view: nothing but training its trial again brings a lost one back.

Nothing here needs torch: the process that writes the ledger starts fast and stays small.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import itertools
import json
import os
import socket
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import UnreadableFileError, printable, read_json
from stitch_sweep.storage.files import (
    Kept,
    forget,
    keep,
    kept,
    remove_temporaries,
    write_atomically,
)
from stitch_sweep.storage.records import (
    RecordError,
    read_description,
    read_record,
    seal,
    trial_of,
    without_outcome,
)

_FOLDERS = ("stitches", "matrices", "figures", "tables", "measured")
"""Those of an experiment's folder that a sweep writes files into, besides the ledger."""
_MOST_PREDICTIONS = 2**28
"""Bytes of predictions that are unpacked at most: a few hundred million test images."""
_LOCK_JSON = 2**16
_OUTCOME = ("status", "metrics", "trajectory", "predictions")


@dataclass(frozen=True)
class Study:
    """One cell under one combination of factors and one repeat: what one Optuna study searches.

    Attributes:
        sender: name of the sending network.
        sender_layer: where it is cut; -1 is the image.
        receiver: name of the receiving network.
        receiver_layer: where it goes on; -1 means that the stitch makes an image.
        factors: crossed settings as {dotted path: value}.
        repeat: counted from 0.
    """

    sender: str
    sender_layer: int
    receiver: str
    receiver_layer: int
    factors: Mapping[str, Any] = field(default_factory=dict)
    repeat: int = 0

    @property
    def key(self) -> dict[str, Any]:
        """Identity as plain data."""
        return {
            "sender": self.sender,
            "sender_layer": self.sender_layer,
            "receiver": self.receiver,
            "receiver_layer": self.receiver_layer,
            "factors": dict(self.factors),
            "repeat": self.repeat,
        }

    @property
    def id(self) -> str:
        """A file name that says what it is; the hash keeps any two studies apart."""
        text = json.dumps(self.key, sort_keys=True)
        short = hashlib.sha256(text.encode()).hexdigest()[:8]
        layers = [str(k) if k >= 0 else "image" for k in (self.sender_layer, self.receiver_layer)]
        return f"{self.sender}.{layers[0]}-{self.receiver}.{layers[1]}-r{self.repeat}-{short}"

    def trial(self, number: int) -> str:
        """Id of the `number`-th trial of this study."""
        return f"{self.id}-n{number}"


class LedgerBusyError(InputError):
    """Another process is writing this ledger."""


class Ledger:
    """The records of one experiment folder.

    Args:
        folder: the experiment folder; nothing is written before the first `start`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.root = self.folder / "ledger"
        self._trials = self.root / "trials"
        self._checkpoints = self.root / "checkpoints"

    @property
    def exists(self) -> bool:
        """Whether a sweep was ever started here."""
        return (self.root / "sweep.json").exists()

    def check_place(self) -> None:
        """Check that `ledger/` is free for a sweep, or is a sweep's.

        Raises:
            InputError: it is a file, leads nowhere, or holds somebody else's files.
        """
        moved = "move it away, or give the sweep a folder of its own"
        if not self.root.is_dir():
            if self.root.exists() or self.root.is_symlink():
                kind = "is a symbolic link to nothing" if self.root.is_symlink() else "is a file"
                raise InputError(
                    f"{self.root}: {kind}, and a sweep keeps its records there; {moved}"
                )
            return
        if self.exists:
            return
        foreign = sorted(entry.name for entry in self.root.iterdir() if not self._is_own(entry))
        if foreign:
            raise InputError(
                f"{self.root}: holds {some(foreign)}, which no sweep made, and a sweep keeps its "
                f"records in a folder of this name; {moved}"
            )

    def _is_own(self, entry: Path) -> bool:
        """Whether a sweep that never started can have left this in `ledger/`, or it is hidden."""
        if entry.name.startswith("."):  # never touched: a file manager's notes, a killed writer's
            return True
        if entry.is_symlink():
            return False
        if entry.name in ("trials", "checkpoints"):
            return entry.is_dir()
        if entry.name in ("lock", "tracking.lock"):
            return entry.is_file() and entry.stat().st_size == 0
        return entry.name == "lock.json" and _read_holder(entry) is not None

    def lock(self) -> FileLock:
        """Take the right to write; the operating system gives it back when the process dies.

        Raises:
            LedgerBusyError: another process has it; the message says which.
            InputError: see `check_place`.
        """
        self.check_place()
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / "lock")
        holder = self.root / "lock.json"
        try:
            lock.acquire(timeout=1)  # `status` holds it for an instant
        except Timeout:
            who = _read_holder(holder) or {}
            raise LedgerBusyError(
                f"{self.folder}: another sweep is running in this folder "
                f"(process {who.get('pid', '?')} on {printable(who.get('host', '?'))}); wait for it "
                "or stop it"
            ) from None
        write_atomically(
            holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        )
        self.remove_leftovers()
        return lock

    def is_locked(self) -> bool:
        """Whether a process holds the lock; nothing is created or written."""
        try:
            descriptor = os.open(self.root / "lock", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks: nobody can hold one
            return False
        finally:
            os.close(descriptor)
        return False

    def discard(self) -> None:
        """Remove what a sweep that never started has made here, while its lock is held.

        Whatever else lies in `ledger/` stays, and so does the folder then.
        """
        for name in ("lock", "lock.json", "tracking.lock"):
            if (path := self.root / name).is_file() and self._is_own(path):
                path.unlink()
        for place in (self._trials, self._checkpoints, self.root):
            with suppress(OSError):  # it isn't empty, or a symbolic link of the user's
                place.rmdir()

    def remove_leftovers(self) -> None:
        """Remove what processes that were killed were about to write; nobody else may be writing."""
        own = (self.folder / name for name in _FOLDERS)
        for folder in (self.root, self._trials, self._checkpoints, self.folder, *own):
            remove_temporaries(folder)

    def start(self, description: Mapping[str, Any]) -> None:
        """Write down what the sweep is; its id stays what it was."""
        identity = (self.description() or {}).get("id") or uuid.uuid4().hex
        write_atomically(self.root / "sweep.json", seal({"id": identity, **description}))

    def description(self) -> dict[str, Any] | None:
        """What `start` wrote, with the sweep's `id`; None where no sweep was started.

        Raises:
            RecordError: the file is damaged, or is no sweep's description.
        """
        return read_description(self.root / "sweep.json")

    def begin(self, trial: str, content: Mapping[str, Any]) -> None:
        """Record that a trial was handed out, with its parameters, before anyone starts on it."""
        self._write(trial, {**content, "trial": trial, "status": "running"})

    def finish(
        self, trial: str, outcome: Mapping[str, Any], predictions: np.ndarray | None
    ) -> dict[str, Any]:
        """Record how a trial ended; the outcome that was recorded first stays.

        Args:
            trial: its id, known from `begin`.
            outcome: `status` (finished or failed), `metrics`, `trajectory`, `seconds`, ...
            predictions: int [N], the class predicted for every test image, if there is one.

        Returns:
            The whole record.

        Raises:
            RecordError: the record that is there can't be used.
        """
        before = self.read(trial) or {}
        if before.get("status", "running") != "running":
            return before  # a worker that was taken for dead, or one that died after it had told us
        record = {**before, **outcome, "trial": trial}
        record["predictions"] = None if predictions is None else _encode(predictions)
        self._write(trial, record)
        self.forget_checkpoints(trial)
        return record

    def read(self, trial: str) -> dict[str, Any] | None:
        """A trial's record, or None.

        Raises:
            RecordError: it is damaged, is no record, or can't be read.
        """
        return read_record(self.record_path(trial), trial)

    def records(
        self, on_damage: Callable[[RecordError], object] | None = None
    ) -> Iterator[dict[str, Any]]:
        """All records, sorted by trial id.

        Args:
            on_damage: told of every record that can't be used, which is then left out.

        Raises:
            RecordError: a record can't be used, and `on_damage` isn't given.
        """
        for trial in sorted(self.trial_ids()):
            try:
                record = self.read(trial)
            except RecordError as error:
                if on_damage is None:
                    raise
                on_damage(error)
                continue
            if record is not None:
                yield record

    def trial_ids(self) -> set[str]:
        """Ids of all trials that were ever handed out; copies that other programs made don't count."""
        return {trial for path in self._listed() if (trial := trial_of(path)) is not None}

    def stray_files(self) -> list[str]:
        """Names of the files among the records that are none, sorted; hidden ones are left out."""
        return sorted(
            path.name
            for path in self._listed()
            if trial_of(path) is None and not path.name.startswith(".")
        )

    def _listed(self) -> list[Path]:
        try:
            return list(self._trials.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def record_path(self, trial: str) -> Path:
        """Where a trial's record is."""
        return self._trials / f"{trial}.json"

    def set_aside_damaged(self) -> list[RecordError]:
        """Move damaged records to `ledger/set_aside`, so that their trials run again.

        Returns:
            What was wrong with each.

        Raises:
            RecordError: a record can't be read at all, so that it isn't known whether it is damaged.
        """
        found: list[RecordError] = []
        for _ in self.records(found.append):
            pass
        if unreadable := [error for error in found if not error.damaged]:
            raise unreadable[0]
        for error in found:
            self.set_aside(Path(error.path))
        return found

    def set_aside(self, path: Path) -> Path:
        """Move a file to `ledger/set_aside`, under a name that is free there; returns the new path."""
        folder = self.root / "set_aside"
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            target = folder / (path.name if number == 1 else f"{path.stem}.{number}{path.suffix}")
            if not target.exists() and not target.is_symlink():
                path.rename(target)
                return target
        raise AssertionError("counting doesn't end")

    def write_checkpoint(self, trial: str, data: bytes) -> None:
        """Keep where a running trial got to, and where it was before."""
        keep(self._checkpoints / trial, data)

    def read_checkpoints(self, trial: str) -> list[Kept]:
        """Where a trial got to, the newest first; nothing of it is verified."""
        return kept(self._checkpoints / trial)

    def reached(self, trial: str) -> int | None:
        """When a trial's newest checkpoint was written, which changes whenever it gets further."""
        try:
            return (self._checkpoints / trial).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def forget_checkpoints(self, trial: str) -> None:
        """Remove what `write_checkpoint` kept of a trial that has ended."""
        forget(self._checkpoints / trial)

    def stitch_path(self, trial: str) -> Path:
        """Where a trial's stitch is kept."""
        return self.folder / "stitches" / f"{trial}.safetensors"

    def trained_trial(self, trial: str) -> str:
        """The trial whose training gave a trial its result: itself, unless its record is a copy.

        The stitch of a copied trial is kept under this one's id.
        """
        record = self.read(trial) or {}
        return record.get("copied_from") or trial

    def check_stitch(self, record: Mapping[str, Any], *, content: bool = True) -> str:
        """What is wrong with the stitch that a record says was kept: `missing`, `damaged`, or nothing.

        Args:
            record: of an ended trial. Where none was kept, or the record is of a version that wrote
                no checksums, nothing is wrong.
            content: whether to compare the file's checksum too, and not its size alone.
        """
        stitch = record.get("stitch")
        if stitch is None:
            return ""
        path = self.stitch_path(record["trial"])
        try:
            if not path.is_file() or path.stat().st_size != stitch["bytes"]:
                return "damaged" if path.exists() else "missing"
            if not content:
                return ""
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return "missing"
        except OSError:
            return "damaged"
        return "" if digest == stitch["sha256"] else "damaged"

    def begin_again(self, record: Mapping[str, Any]) -> None:
        """Have an ended trial run once more with its parameters, and keep its record to compare with.

        What lies in place of its stitch is moved to `ledger/set_aside`.
        """
        trial = record["trial"]
        write_atomically(self._former_path(trial), seal(record))
        stitch = self.stitch_path(trial)
        if stitch.exists() or stitch.is_symlink():
            self.set_aside(stitch)
        self.begin(trial, without_outcome(record))

    def compare_retrained(self) -> list[str]:
        """Compare trials that ran again with their former records; returns a sentence per difference.

        A former record that is equal is removed; one that differs is moved to `ledger/set_aside`.
        """
        problems = []
        for path in sorted(self._former_path("").parent.glob("*.json")):
            trial = trial_of(path)
            former = None if trial is None else read_record(path, trial)
            current = None if trial is None else self.read(trial)
            if former is None or current is None or current["status"] == "running":
                continue
            different = [
                key for key in _OUTCOME if _timeless(former, key) != _timeless(current, key)
            ]
            if different:
                problems.append(
                    f"trial {trial} was trained again and came out otherwise ({', '.join(different)} "
                    f"differ); the former record is {self.set_aside(path)}"
                )
            else:
                path.unlink()
        return problems

    def _former_path(self, trial: str) -> Path:
        return self.root / "retrained" / f"{trial}.json"

    def drop_stitch(self, trial: str) -> None:
        """Remove a trial's stitch that is no longer kept, and say so in the record first.

        A file that isn't the one that the record tells of stays where it is.
        """
        record = self.read(trial)
        if record is None or record.get("stitch") is None:
            return
        wrong = self.check_stitch(record)
        self._write(trial, {**record, "stitch": None})
        if not wrong:
            self.stitch_path(trial).unlink(missing_ok=True)

    def _write(self, trial: str, record: Mapping[str, Any]) -> None:
        write_atomically(self.record_path(trial), seal(record))


class LedgerWriter:
    """What workers have to say of their trials; an actor on the driver's node, so they share no disk.

    Whatever it is told it may be told again: Ray starts it anew when its process dies, and repeats the
    calls that were not answered.

    Args:
        folder: the experiment folder.
        keep_stitches: `all`, `best` (of each study) or `none`.
        mode: whether `max` or `min` of the search metric is best.
    """

    def __init__(self, folder: str, keep_stitches: str, mode: str) -> None:
        self._ledger = Ledger(folder)
        self._keep = keep_stitches
        self._sign = 1 if mode == "max" else -1
        self._best: dict[str, tuple[float, int]] = {}
        # A damaged record is named by all who read it; the writer must not die of it.
        records = self._ledger.records(lambda error: None)
        ended = [r for r in records if r["status"] != "running"]
        finished = [r for r in ended if r["status"] == "finished"]
        for record in finished:
            study, rank = record["study"], self._rank(record)
            self._best[study] = max(rank, self._best.get(study, rank))
        # A process killed between a record and the next step left things behind.
        for record in ended:
            self._ledger.forget_checkpoints(record["trial"])
        if keep_stitches == "best":
            for record in finished:
                if self._rank(record) != self._best[record["study"]]:
                    self._ledger.drop_stitch(record["trial"])

    def finish(
        self,
        trial: str,
        outcome: dict[str, Any],
        predictions: np.ndarray | None,
        stitch: bytes | None,
    ) -> None:
        """Write down how a trial ended, its stitch before its record."""
        before = self._ledger.read(trial)
        if before is not None and before["status"] != "running":
            return  # a worker that was taken for dead, or one that died after it had told us
        if stitch is not None and self._is_kept({**(before or {}), **outcome}):
            write_atomically(self._ledger.stitch_path(trial), stitch)
            checksum = hashlib.sha256(stitch).hexdigest()
            outcome = {**outcome, "stitch": {"sha256": checksum, "bytes": len(stitch)}}
        else:
            outcome = {**outcome, "stitch": None}
        record = self._ledger.finish(trial, outcome, predictions)
        if record["status"] == "finished":
            self._rank_in(record)

    def checkpoint(self, trial: str, data: bytes) -> None:
        """Keep where a running trial got to."""
        record = self._ledger.read(trial)
        # A worker that was taken for dead may go on with a trial that another one has ended.
        if record is None or record["status"] == "running":
            self._ledger.write_checkpoint(trial, data)

    def read_checkpoints(self, trial: str) -> list[Kept]:
        """Where a trial got to before it was interrupted, the newest first."""
        return self._ledger.read_checkpoints(trial)

    def note(self, trial: str, error: str, out_of_memory: bool = False) -> None:
        """Keep why a running trial has to be started again, for whoever reads its record."""
        record = self._ledger.read(trial)
        if record is not None and record["status"] == "running":
            why = {"error": error, "out_of_memory": out_of_memory}
            self._ledger.begin(trial, {**record, **why})

    def _is_kept(self, record: Mapping[str, Any]) -> bool:
        if self._keep == "none" or record["status"] != "finished":
            return False
        if self._keep == "all":
            return True
        rank = self._rank(record)
        return rank >= self._best.get(record["study"], rank)

    def _rank(self, record: Mapping[str, Any]) -> tuple[float, int]:
        # Of equals the first is the best, whichever of them ended first.
        return (self._sign * record["metric"], -record["number"])

    def _rank_in(self, record: Mapping[str, Any]) -> None:
        study, rank = record["study"], self._rank(record)
        best = self._best.get(study, rank)
        self._best[study] = max(rank, best)
        if self._keep == "best" and rank > best:
            self._ledger.drop_stitch(f"{study}-n{-best[1]}")


def predictions_of(record: Mapping[str, Any]) -> np.ndarray | None:
    """The class predicted for every test image, int [N], or None for a failed trial.

    Raises:
        InputError: they can't be unpacked, or are larger than any test set.
    """
    encoded = record.get("predictions")
    if encoded is None:
        return None
    try:
        unpacking = zlib.decompressobj()
        packed = base64.b64decode(encoded["zlib"], validate=True)
        data = unpacking.decompress(packed, _MOST_PREDICTIONS)
        if not unpacking.eof:
            raise ValueError("cut off, or too large")
        return np.frombuffer(data, dtype=encoded["dtype"])
    except (zlib.error, binascii.Error, ValueError) as error:
        raise InputError(
            f"trial {record['trial']}: its predictions can't be unpacked ({error}); remove its record "
            "to run it again"
        ) from None


def _encode(predictions: np.ndarray) -> dict[str, str]:
    small = predictions.astype(np.min_scalar_type(int(predictions.max(initial=0))))
    return {
        "dtype": str(small.dtype),
        "zlib": base64.b64encode(zlib.compress(small.tobytes())).decode(),
    }


def _read_holder(path: Path) -> dict[str, Any] | None:
    """The process that took the lock; None where the file isn't one that `lock` wrote."""
    try:
        holder = read_json(path, _LOCK_JSON)
    except (FileNotFoundError, UnreadableFileError):
        return None
    is_ours = isinstance(holder.get("pid"), int) and isinstance(holder.get("host"), str)
    return holder if is_ours and len(holder) == 2 else None


def _timeless(record: Mapping[str, Any], key: str) -> Any:
    if key != "trajectory":
        return record.get(key)
    return [{name: row[name] for name in row if name != "time"} for row in record[key]]


def some(names: list[str]) -> str:
    """The first few of many names, for a message."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(printable, names[:3])) + more
