"""The program of a worker: a Tune Trainable that trains groups of stitches, one group after the other.

The actor is reused, so its process pays only once for the import of torch, for receiving the data and the
networks, and for a sender's activations.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from stitch_sweep.config.root import Config
from stitch_sweep.core.plugins import Plugin
from stitch_sweep.core.registry import Registration
from stitch_sweep.data.transfer import data_from_arrays
from stitch_sweep.networks.frozen import FrozenError
from stitch_sweep.storage.files import is_storage_error
from stitch_sweep.sweep.gpu_errors import is_broken_device, is_out_of_memory
from stitch_sweep.sweep.gpu_memory import count_refused_allocations, limit_memory
from stitch_sweep.sweep.ray_setup import ray, tune
from stitch_sweep.sweep.shelf import NodeShelf
from stitch_sweep.sweep.worker_trial import NodeError, WorkerTrial, note_error
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.pack import Pack
from stitch_sweep.training.workbench import Workbench


@dataclass(frozen=True)
class Shared:
    """The input of every worker of a sweep, through Ray's object store.

    Attributes:
        config: the configuration.
        data: reference to the data set, its tensors as NumPy arrays.
        networks: reference to the networks by name.
        writer: the `LedgerWriter` actor.
        context: bytes that a process takes of a GPU before it computes; see `sweep.gpu_memory`.
        report_seconds: minimum duration of a step in which no trial ends or waits.
        checkpoint_seconds: minimum time between two checkpoints of a trial.
        extensions: the plugins and registered objects that the configuration uses. They arrive with this
            object, before the networks, whose classes may be defined in them.
    """

    config: Config
    data: Any
    networks: Any
    writer: Any
    context: int = 0
    report_seconds: float = 5.0
    checkpoint_seconds: float = 60.0
    extensions: tuple[Plugin | Registration, ...] = ()


LEFT = "left"
"""Key of a worker's result: ids of the trials that have ended or wait since the result before."""

MESSAGES = "said"
"""Key of a worker's result: texts for the user, because a worker's own output goes to log files."""

STOPPED = "stopped"
"""Key of a worker's result: why no worker can record anything any more."""

HELD = 2
"""Number of waiting trainings that a worker keeps in memory, in multiples of a pack's places."""

# A changed network is among them, because a new process has the original.
_INFRASTRUCTURE = (
    FrozenError,
    MemoryError,
    NodeError,
    OSError,
    ray.exceptions.RayError,
)


class StitchTrainable(tune.Trainable):
    """One group of trials for Ray Tune. Ray reuses its process for the next group."""

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        """Prepare the process; called once."""
        assert shared is not None
        self._shared = shared
        self._held: OrderedDict[str, StitchTraining] = OrderedDict()
        self._pack = Pack(1)
        self._begin(config)
        try:
            limit_memory(self._gpu, shared.context)
            data = data_from_arrays(ray.get(shared.data))
            self._bench = Workbench(
                shared.config, data, ray.get(shared.networks), shelf=NodeShelf()
            )
        except Exception as error:
            for entry in self._waiting:
                note_error(shared.writer, entry["spec"]["trial"], error)
            raise

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin a further group in this process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train until a trial ends or waits, or `report_seconds` are over.

        Outcomes and pauses are in the ledger before Tune is told.
        """
        began = time.monotonic()
        self._left: list[str] = []
        self._messages: list[str] = []
        try:
            self._fill_places()
            while self._open and not (self._left or self._messages):
                self._run_epoch()
                if time.monotonic() - began >= self._shared.report_seconds:
                    break
        except Exception as error:
            cause = getattr(error, "cause", None)  # the exception that the ledger's actor raised
            if is_storage_error(cause):
                return {"done": True, STOPPED: str(cause)}
            self._note(error)
            raise
        is_done = not (self._open or self._waiting)
        return {"done": is_done, LEFT: self._left, MESSAGES: self._messages}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: Tune's checkpoints are off, because the ledger keeps the checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing; see `save_checkpoint`."""

    def _begin(self, config: Mapping[str, Any]) -> None:
        group = json.loads(config["group"])
        self._width: int = group["width"]
        self._waiting = deque(group["trials"])
        self._open: list[WorkerTrial] = []
        # A pack is kept, because it has prepared passes of its receiver.
        if self._pack.width != self._width or self._pack.members:
            self._pack = Pack(self._width)
        self._gpu, self._larger = float(config["gpu"]), bool(config["larger"])
        self._refused_before = count_refused_allocations()

    def _fill_places(self) -> None:
        """Open the next trials of the group while the pack has free places."""
        while self._waiting and self._pack.free:
            entry = self._waiting.popleft()
            trial = WorkerTrial(
                entry["spec"],
                entry["until"],
                self._bench,
                self._shared.writer,
                self._shared.config.search.metric,
            )
            self._open.append(trial)
            try:
                message = trial.open(self._width, self._held.pop(trial.id, None))
                if message is not None:
                    self._messages.append(message)
            except Exception as error:
                self._fail(trial, error)
                continue
            if trial.is_over:
                self._close(trial)
            elif self._pack.fits(trial.training) or not self._pack.members:
                self._pack.add(trial.training)
            else:  # it trains when the members have left
                self._open.remove(trial)
                trial.training.release_representations()
                self._held[trial.id] = trial.training
                self._waiting.appendleft(entry)
                return

    def _run_epoch(self) -> None:
        """Train every open trial to the end of its epoch."""
        try:
            errors = self._pack.run_epoch()
        except Exception as error:
            if len(self._open) > 1:  # of the joint pass; each trial is tried again by itself
                raise
            errors = {self._open[0].training: error}
        self._check_memory()  # before anything of the epoch is stored
        for trial in list(self._open):
            if trial.training in errors:
                self._fail(trial, errors[trial.training])
            elif trial.is_over:
                self._close(trial)
            else:
                trial.store(self._shared.checkpoint_seconds)

    def _close(self, trial: WorkerTrial) -> None:
        try:
            trial.close(self._check_memory)
        except Exception as error:
            self._fail(trial, error)
            return
        self._leave(trial)
        if not trial.training.done:
            self._hold(trial)

    def _fail(self, trial: WorkerTrial, error: Exception) -> None:
        """Record the error of a trial that can't be trained, which is a result; raise other errors."""
        if self._is_infrastructure(error):
            raise error
        trial.fail(error)
        self._leave(trial)

    def _leave(self, trial: WorkerTrial) -> None:
        if trial.is_open and trial.training in self._pack.members:
            self._pack.remove(trial.training)
        self._open.remove(trial)
        self._left.append(trial.id)

    def _is_infrastructure(self, error: Exception) -> bool:
        """Return whether the process, the machine or the ledger is at fault, and not a trial."""
        cause = getattr(error, "cause", None)
        if is_storage_error(cause):
            return True
        if is_out_of_memory(error):
            # Twice the share may do, or fewer trials at once.
            return (not self._larger and self._gpu < 1) or len(self._open) > 1
        # If the ledger's actor can't write a trial's values, the trial is at fault.
        is_trial_fault = isinstance(cause, ValueError)
        return not is_trial_fault and (
            isinstance(error, _INFRASTRUCTURE) or is_broken_device(error)
        )

    def _check_memory(self) -> None:
        if 0 < self._gpu < 1 and count_refused_allocations() > self._refused_before:
            raise torch.OutOfMemoryError(
                "CUDA out of memory: a library continued with another algorithm, which gives other bits"
            )

    def _note(self, error: Exception) -> None:
        """Record why all open trials must start again in a new process."""
        for trial in self._open:
            note_error(self._shared.writer, trial.id, error)

    def _hold(self, trial: WorkerTrial) -> None:
        """Keep a waiting training in memory, unless other processes share this one's GPU.

        It keeps no representations: those of many trainings would take more memory than the cache.
        """
        if 0 < self._gpu < 1:
            return
        trial.training.release_representations()
        self._held[trial.id] = trial.training
        while len(self._held) > HELD * self._width:
            self._held.popitem(last=False)
