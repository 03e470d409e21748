"""The ledger of a sweep: the one source of truth about its trials.

A trial's record is one JSON file, which is written atomically before the end of the trial is reported
anywhere else. Results tables, Optuna studies and MLflow runs are views that can be rebuilt from the
ledger.

    ledger/sweep.json               the sweep: its settings, and an id
    ledger/trials/<trial>.json      a trial: running, finished, failed or stopped
    ledger/checkpoints/<trial>      newest checkpoint of a running trial; <trial>.previous is older
    ledger/retrained/<trial>.json   former record of a trial that runs again for its stitch
    ledger/set_aside/               damaged files, and files whose place was needed
    ledger/lock                     locked by the only process that may write
    stitches/<trial>.safetensors    a kept stitch; the trial's record has its checksum

A stitch is not a view: a lost stitch can only be trained again.

These modules do not import torch, so the process that writes the ledger starts quickly and stays small.
"""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from stitch_sweep.storage import layout, ledger_lock
from stitch_sweep.storage.checkpoint_files import (
    CheckpointFile,
    read_checkpoints,
    remove_checkpoints,
    write_checkpoint,
)
from stitch_sweep.storage.files import remove_temporaries, write_atomically
from stitch_sweep.storage.predictions import encode_predictions
from stitch_sweep.storage.records import (
    RecordError,
    read_description,
    read_record,
    seal,
    trial_from_path,
)

PAUSED_AT = "paused_at"
"""Key of a running trial's record: the epoch after which it waits, or waited last, for a decision."""

_PROGRESS = (PAUSED_AT, "trajectory", "seconds", "started")
"""Keys that `Ledger.pause` adds to the record of a running trial."""


class Ledger:
    """The records of one experiment folder.

    Args:
        folder: the experiment folder; nothing is written before the first `start`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.root = self.folder / layout.LEDGER
        self._trials = self.root / layout.RECORDS
        self._checkpoints = self.root / layout.CHECKPOINTS

    @property
    def exists(self) -> bool:
        """Whether a sweep was started in this folder."""
        return (self.root / layout.DESCRIPTION).exists()

    def check_place(self) -> None:
        """Check that `ledger/` is free or belongs to a sweep.

        Raises:
            InputError: it is a file, a broken link, or contains foreign files.
        """
        ledger_lock.check_place(self.root)

    def lock(self) -> FileLock:
        """Acquire the lock, and remove the leftovers of killed processes.

        Raises:
            LedgerBusyError: another process holds the lock; the message names the process.
            InputError: see `check_place`.
        """
        lock = ledger_lock.acquire(self.root)
        self.remove_leftovers()
        return lock

    def is_locked(self) -> bool:
        """Return whether a process holds the lock. Nothing is created or written."""
        return ledger_lock.is_locked(self.root)

    def discard(self) -> None:
        """Remove the files and folders of a sweep that did not start, while its lock is held."""
        ledger_lock.discard(self.root)

    def remove_leftovers(self) -> None:
        """Remove leftovers of killed processes. No other process may be writing."""
        outputs = (self.folder / name for name in layout.OUTPUT_FOLDERS)
        for folder in (self.root, self._trials, self._checkpoints, self.folder, *outputs):
            remove_temporaries(folder)

    def start(self, description: Mapping[str, Any]) -> None:
        """Write the sweep's description. An existing id is kept."""
        identity = (self.description() or {}).get("id") or uuid.uuid4().hex
        write_atomically(self.root / layout.DESCRIPTION, seal({"id": identity, **description}))

    def description(self) -> dict[str, Any] | None:
        """Return the description that `start` wrote, with the sweep's `id`; None without a sweep.

        Raises:
            RecordError: the file is damaged, or not a sweep's description.
        """
        return read_description(self.root / layout.DESCRIPTION)

    def begin(self, trial: str, content: Mapping[str, Any]) -> None:
        """Record a running trial with its parameters, before a worker starts it."""
        self.write(trial, {**content, "trial": trial, "status": "running"})

    def hand_out(self, trial: str, content: Mapping[str, Any]) -> None:
        """Record a trial that a worker starts or continues. An outcome, and a pause, are kept."""
        existing = self.read(trial) or {}
        if existing.get("status", "running") == "running":
            progress = {key: existing[key] for key in _PROGRESS if key in existing}
            self.begin(trial, {**content, **progress})

    def pause(self, trial: str, progress: Mapping[str, Any], checkpoint: bytes) -> None:
        """Store the state of a trial that waits for a decision: its checkpoint first, then its record.

        Args:
            trial: id of a running trial; an ended one stays as it is.
            progress: `paused_at` (the number of completed epochs), `trajectory`, `seconds` and `started`.
            checkpoint: from which the trial continues.
        """
        record = self.read(trial)
        if record is not None and record["status"] == "running":
            self.write_checkpoint(trial, checkpoint)
            # A trial that pauses again started when it did for the first time.
            started = record.get("started", progress["started"])
            self.begin(trial, {**record, **progress, "started": started})

    def stop(self, trial: str, metric: float) -> dict[str, Any]:
        """Record that a paused trial ends where it waits; return the whole record.

        Args:
            trial: id of a trial that `pause` was called for.
            metric: the search metric where it waits.
        """
        record = self.read(trial) or {}
        outcome: dict[str, Any] = {
            "status": "stopped",
            "stopped_at": record.get(PAUSED_AT),
            "trajectory": record.get("trajectory"),
            "seconds": record.get("seconds"),
            "started": record.get("started"),
            "metric": metric,
            "metrics": {},
            "stitch": None,
        }
        return self.finish(trial, outcome, None)

    def finish(
        self, trial: str, outcome: Mapping[str, Any], predictions: np.ndarray | None
    ) -> dict[str, Any]:
        """Record the outcome of a trial. An existing outcome is kept.

        Args:
            trial: id of a trial that was recorded with `begin`.
            outcome: `status` (finished, failed or stopped), `metrics`, `trajectory`, `seconds`, ...
            predictions: int [N], the class predicted for each test image; None without predictions.

        Returns:
            The whole record.

        Raises:
            RecordError: the existing record can't be used.
        """
        existing = self.read(trial) or {}
        if existing.get("status", "running") != "running":
            # This is a second report: a worker seemed dead, or it died after its report, and the trial
            # ran again.
            return existing
        record = {**existing, **outcome, "trial": trial}
        if "started" in existing:  # the trial was paused in between
            record["started"] = existing["started"]
        record.pop(PAUSED_AT, None)
        record["predictions"] = None if predictions is None else encode_predictions(predictions)
        self.write(trial, record)
        self.remove_checkpoints(trial)
        return record

    def read(self, trial: str) -> dict[str, Any] | None:
        """Return a trial's record; None without a record.

        Raises:
            RecordError: it is damaged, not a record, or can't be read.
        """
        return read_record(self.record_path(trial), trial)

    def write(self, trial: str, record: Mapping[str, Any]) -> None:
        """Write a trial's record, with a checksum."""
        write_atomically(self.record_path(trial), seal(record))

    def records(
        self, on_damage: Callable[[RecordError], object] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Iterate over all records, sorted by trial id.

        Args:
            on_damage: called with the error of each unusable record, which is skipped.

        Raises:
            RecordError: a record is unusable, and `on_damage` is None.
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
        """Return the ids of all recorded trials, without copies of records that other programs made."""
        trials = map(trial_from_path, self._list_trials())
        return {trial for trial in trials if trial is not None}

    def stray_files(self) -> list[str]:
        """Return the sorted names of visible files among the records that are not records."""
        return sorted(
            path.name
            for path in self._list_trials()
            if trial_from_path(path) is None and not path.name.startswith(".")
        )

    def _list_trials(self) -> list[Path]:
        try:
            return list(self._trials.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def record_path(self, trial: str) -> Path:
        """Return the path of a trial's record."""
        return layout.record_path(self.folder, trial)

    def set_aside_damaged(self) -> list[RecordError]:
        """Move damaged records to `ledger/set_aside`, so that their trials run again.

        Returns:
            The error of each damaged record.

        Raises:
            RecordError: a record can't be read, so it is unknown whether it is damaged.
        """
        errors: list[RecordError] = []
        for _ in self.records(errors.append):
            pass
        if unreadable := [error for error in errors if not error.damaged]:
            raise unreadable[0]
        for error in errors:
            self.set_aside(Path(error.path))
        return errors

    def set_aside(self, path: Path) -> Path:
        """Move a file to `ledger/set_aside`, under a free name; return the new path."""
        folder = self.root / layout.SET_ASIDE
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            target = folder / (path.name if number == 1 else f"{path.stem}.{number}{path.suffix}")
            if not target.exists() and not target.is_symlink():
                path.rename(target)
                return target
        raise AssertionError("unreachable")

    def write_checkpoint(self, trial: str, data: bytes) -> None:
        """Write a checkpoint of a running trial; the previous checkpoint is kept."""
        write_checkpoint(self._checkpoints / trial, data)

    def read_checkpoints(self, trial: str) -> list[CheckpointFile]:
        """Read a trial's checkpoints, newest first, without verification."""
        return read_checkpoints(self._checkpoints / trial)

    def checkpoint_time(self, trial: str) -> int | None:
        """Return the time of a trial's newest checkpoint, in nanoseconds; None without checkpoint."""
        try:
            return (self._checkpoints / trial).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def remove_checkpoints(self, trial: str) -> None:
        """Remove the checkpoints of an ended trial."""
        remove_checkpoints(self._checkpoints / trial)

    def stitch_path(self, trial: str) -> Path:
        """Return the path of a trial's stitch."""
        return layout.stitch_path(self.folder, trial)

    def trained_trial(self, trial: str) -> str:
        """Return the trial whose training gave a trial's result: itself, or the original of a copy.

        The stitch of a copied trial is stored under the returned id.
        """
        record = self.read(trial) or {}
        return record.get("copied_from") or trial

    def check_stitch(self, record: Mapping[str, Any], *, content: bool = True) -> str:
        """Check the stitch of an ended trial's record.

        Args:
            record: record of an ended trial. Records without a stitch, and those of versions that wrote
                no checksums, have no problem.
            content: whether to compare the checksum, and not the size only.

        Returns:
            `missing`, `damaged`, or an empty string without problem.
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

    def read_start(self, start: Mapping[str, str] | None) -> bytes | None:
        """Read the stitch that a trial starts from; None if it starts from no other trial's.

        Args:
            start: `trial` and `sha256` of that stitch, as in the record of the trial that starts from it.

        Raises:
            OSError: it is missing, can't be read, or isn't the recorded one.
        """
        if start is None:
            return None
        data = self.stitch_path(start["trial"]).read_bytes()
        if hashlib.sha256(data).hexdigest() != start["sha256"]:
            raise OSError(f"the stitch of {start['trial']} is not the recorded one")
        return data

    def drop_stitch(self, trial: str) -> None:
        """Remove a trial's stitch: first from the record, then the file.

        A file that differs from the recorded stitch is kept.
        """
        record = self.read(trial)
        if record is None or record.get("stitch") is None:
            return
        problem = self.check_stitch(record)
        self.write(trial, {**record, "stitch": None})
        if not problem:
            self.stitch_path(trial).unlink(missing_ok=True)
