"""What has happened in a sweep: the one source of truth, in files that survive any death.

A trial's record is one JSON file, written atomically before anyone else hears of the trial's end.
Results tables, Optuna's studies and MLflow's runs are views that are rebuilt from here.

    ledger/sweep.json               what the sweep is: its settings, and an id
    ledger/trials/<trial>.json      a trial: running, finished or failed
    ledger/checkpoints/<trial>      where a running trial got to; <trial>.previous is the one before
    ledger/lock                     held by the one process that may write
    stitches/<trial>.safetensors    a kept stitch

Nothing here needs torch: the process that writes the ledger starts fast and stays small.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from stitch_sweep.errors import InputError
from stitch_sweep.files import Kept, forget, keep, kept, write_atomically

_FOLDERS = ("stitches", "matrices", "figures", "tables")
"""Those of an experiment's folder that a sweep writes files into, besides the ledger."""


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

    def lock(self) -> FileLock:
        """Take the right to write; the operating system gives it back when the process dies.

        Raises:
            LedgerBusyError: another process has it; the message says which.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / "lock")
        holder = self.root / "lock.json"
        try:
            lock.acquire(timeout=1)  # `status` holds it for an instant
        except Timeout:
            who = _read_json(holder) or {}
            raise LedgerBusyError(
                f"{self.folder}: another sweep is running in this folder "
                f"(process {who.get('pid', '?')} on {who.get('host', '?')}); wait for it or stop it"
            ) from None
        write_atomically(
            holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        )
        self.remove_leftovers()
        return lock

    def remove_leftovers(self) -> None:
        """Remove what processes that were killed were about to write; nobody else may be writing."""
        own = (self.folder, *(self.folder / name for name in _FOLDERS))
        written = (path for folder in own for path in folder.glob(".*.tmp"))
        for leftover in (*self.root.rglob("*.tmp"), *written):
            # The writer of a sweep that was killed just now may still be about to finish one.
            leftover.unlink(missing_ok=True)

    def start(self, description: Mapping[str, Any]) -> None:
        """Write down what the sweep is; its id stays what it was."""
        identity = (self.description() or {}).get("id") or uuid.uuid4().hex
        content = {"id": identity, **description}
        write_atomically(self.root / "sweep.json", _to_json(content))

    def description(self) -> dict[str, Any] | None:
        """What `start` wrote, with the sweep's `id`; None where no sweep was started.

        Raises:
            InputError: the file is damaged.
        """
        path = self.root / "sweep.json"
        found = _read_json(path)
        if found is None and path.exists():
            raise InputError(f"{path}: is damaged; this folder can't be resumed")
        return found

    def begin(self, trial: str, content: Mapping[str, Any]) -> None:
        """Record that a trial was handed out, with its parameters, before anyone starts on it."""
        self._write(trial, {**content, "trial": trial, "status": "running"})

    def finish(
        self, trial: str, outcome: Mapping[str, Any], predictions: np.ndarray | None
    ) -> dict[str, Any]:
        """Record how a trial ended; what was recorded first stays.

        Args:
            trial: its id, known from `begin`.
            outcome: `status` (finished or failed), `metrics`, `trajectory`, `seconds`, ...
            predictions: int [N], the class predicted for every test image, if there is one.

        Returns:
            The whole record.
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
        """A trial's record, or None."""
        return _read_json(self._trials / f"{trial}.json")

    def records(self) -> Iterator[dict[str, Any]]:
        """All records, sorted by trial id."""
        for path in sorted(self._trials.glob("*.json")):
            if (record := _read_json(path)) is not None:
                yield record

    def trial_ids(self) -> set[str]:
        """Ids of all trials that were ever handed out."""
        return {path.stem for path in self._trials.glob("*.json")}

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
        original = record.get("copied_from")
        study = trial.rpartition("-n")[0]
        # A record may come from somebody else: it may name trials of its own study only.
        if isinstance(original, str) and re.fullmatch(re.escape(study) + r"-n\d+", original):
            return original
        return trial

    def _write(self, trial: str, record: Mapping[str, Any]) -> None:
        write_atomically(self._trials / f"{trial}.json", _to_json(record))


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
        ended = [r for r in self._ledger.records() if r["status"] != "running"]
        finished = [r for r in ended if r["status"] == "finished"]
        for record in finished:
            study, rank = record["study"], self._rank(record)
            self._best[study] = max(rank, self._best.get(study, rank))
        # A process killed between a record and the next step left things behind.
        for record in ended:
            self._ledger.forget_checkpoints(record["trial"])
        for record in finished:
            if keep_stitches == "best" and self._rank(record) != self._best[record["study"]]:
                self._ledger.stitch_path(record["trial"]).unlink(missing_ok=True)

    def finish(
        self,
        trial: str,
        outcome: dict[str, Any],
        predictions: np.ndarray | None,
        stitch: bytes | None,
    ) -> None:
        """Write down how a trial ended, its stitch before its record."""
        if stitch is not None and self._keep != "none":
            write_atomically(self._ledger.stitch_path(trial), stitch)
        record = self._ledger.finish(trial, outcome, predictions)
        if record["status"] != "finished":  # it had failed before, and stays so
            self._ledger.stitch_path(trial).unlink(missing_ok=True)
        elif self._keep == "best" and stitch is not None:
            self._forget_worse(record)

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

    def _rank(self, record: Mapping[str, Any]) -> tuple[float, int]:
        # Of equals the first is the best, whichever of them ended first.
        return (self._sign * record["metric"], -record["number"])

    def _forget_worse(self, record: Mapping[str, Any]) -> None:
        study, rank = record["study"], self._rank(record)
        best = self._best.get(study, rank)
        self._best[study] = max(rank, best)
        if rank != best:
            worse = min(rank, best)
            self._ledger.stitch_path(f"{study}-n{-worse[1]}").unlink(missing_ok=True)


def predictions_of(record: Mapping[str, Any]) -> np.ndarray | None:
    """The class predicted for every test image, int [N], or None for a failed trial."""
    encoded = record.get("predictions")
    if encoded is None:
        return None
    data = zlib.decompress(base64.b64decode(encoded["zlib"]))
    return np.frombuffer(data, dtype=encoded["dtype"])


def _encode(predictions: np.ndarray) -> dict[str, str]:
    small = predictions.astype(np.min_scalar_type(int(predictions.max(initial=0))))
    return {
        "dtype": str(small.dtype),
        "zlib": base64.b64encode(zlib.compress(small.tobytes())).decode(),
    }


def _to_json(content: Mapping[str, Any]) -> bytes:
    # Numbers that JSON has no word for must not get in: another program could not read them.
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
