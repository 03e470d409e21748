"""A trial in a worker: its training, and its reports to the ledger."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.fast.machine import check_machine
from stitch_sweep.storage.checkpoint_files import resume_newest
from stitch_sweep.storage.ledger import PAUSED_AT
from stitch_sweep.sweep.gpu_errors import is_out_of_memory
from stitch_sweep.sweep.ray_setup import ray
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.workbench import Workbench


class NodeError(Exception):
    """A node lacks something that a trial needs; another node may have it."""


class WorkerTrial:
    """A trial, or the part of it up to the epoch after which it waits.

    Args:
        spec: what is recorded of the trial before it runs, with its id.
        until: number of completed epochs after which it waits; None if it runs to its end.
        bench: the objects that all trials of the process share.
        writer: the `LedgerWriter` actor.
        metric: the search metric.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        until: int | None,
        bench: Workbench,
        writer: Any,
        metric: str,
    ) -> None:
        self.spec = spec
        self._training: StitchTraining | None = None
        self._until = until
        self._bench = bench
        self._writer = writer
        self._metric = metric
        self._started = time.time()
        self._stored = time.monotonic()

    @property
    def id(self) -> str:
        """Id of the trial."""
        trial: str = self.spec["trial"]
        return trial

    @property
    def is_open(self) -> bool:
        """Whether the training is built."""
        return self._training is not None

    @property
    def training(self) -> StitchTraining:
        """The training; only of an opened trial."""
        assert self._training is not None
        return self._training

    @property
    def is_over(self) -> bool:
        """Whether the training has ended, or has come to the epoch after which it waits."""
        training = self.training
        return training.done or (self._until is not None and training.epoch >= self._until)

    def open(self, width: int, held: StitchTraining | None) -> str | None:
        """Build the training, and resume it from its checkpoint if it has one.

        Args:
            width: number of places of the pack in which it trains.
            held: the training of the same trial, if this process has it in memory: it is resumed from
                the checkpoint too, but not built again.

        Returns:
            A message for the user if a checkpoint couldn't be used.

        Raises:
            NodeError: this node can't train it.
        """
        checkpoints = ray.get(self._writer.read_checkpoints.remote(self.id))
        fallback = f"trial {self.id} starts from the beginning"
        if held is not None:
            self._training = held
            is_resumed, message = resume_newest(checkpoints, self._resume, fallback)
            if is_resumed:
                return message
        spec = self.spec
        settings = TrialSettings.model_validate(spec["settings"])
        self._check_node(settings)
        self._training = self._bench.training(
            spec["sender"],
            spec["sender_layer"],
            spec["receiver"],
            spec["receiver_layer"],
            settings,
            spec["repeat"],
            pack_width=width,
            start=self._read_start(),
        )
        _, message = resume_newest(checkpoints, self._resume, fallback)
        return message

    def store(self, interval: float) -> None:
        """Store a checkpoint, unless one was stored in the last `interval` seconds."""
        now = time.monotonic()
        if now - self._stored >= interval:
            ray.get(self._writer.checkpoint.remote(self.id, self.training.checkpoint()))
            self._stored = now

    def close(self, check: Callable[[], None]) -> None:
        """Record the result, or that the trial waits.

        Args:
            check: called before anything is recorded; raises an error if the values can't be trusted.
        """
        training = self.training
        if training.done:
            self._record_result(training, check)
        else:
            for network in (
                self._bench.senders[self.spec["sender"]],
                self._bench.networks[self.spec["receiver"]],
            ):
                network.verify()
            check()
            progress = {
                PAUSED_AT: training.epoch,
                "trajectory": training.trajectory,
                "seconds": training.seconds,
                "started": self._started,
            }
            ray.get(self._writer.pause.remote(self.id, progress, training.checkpoint()))

    def fail(self, error: Exception) -> None:
        """Record that the trial can't be trained."""
        training = self._training
        outcome: dict[str, Any] = {
            "status": "failed",
            "metric": None,
            "metrics": {},
            "trajectory": training.trajectory if training else [],
            "seconds": training.seconds if training else 0.0,
            "error": f"{type(error).__name__}: {error}",
            "traceback": "".join(traceback.format_exception(error)),
        }
        self.record(outcome, None, None)

    def record(
        self, outcome: dict[str, Any], predictions: np.ndarray | None, stitch: bytes | None
    ) -> None:
        """Send the outcome to the ledger; see `LedgerWriter.finish`."""
        outcome |= {"started": self._started, "worker": ray.get_runtime_context().get_worker_id()}
        ray.get(self._writer.finish.remote(self.id, outcome, predictions, stitch))

    def _check_node(self, settings: TrialSettings) -> None:
        """Check that this node can run the frozen network as a trial's settings say.

        Raises:
            NodeError: it can't.
        """
        training = settings.training
        try:
            check_machine(training.frozen, training.precision, self._bench.device)
        except InputError as error:
            raise NodeError(f"node {socket.gethostname()}: {error}") from None

    def _read_start(self) -> bytes | None:
        """Read the stitch that the trial starts from, if it starts from another trial's.

        Raises:
            OSError: the stitch is missing, or isn't the recorded one.
        """
        start = self.spec.get("start")
        if start is None:
            return None
        # The searcher, which checks it before every attempt, explains the remedy.
        data: bytes = ray.get(self._writer.read_start.remote(start))
        return data

    def _resume(self, checkpoint: bytes) -> bool:
        self.training.restore(checkpoint)
        return True

    def _record_result(self, training: StitchTraining, check: Callable[[], None]) -> None:
        result = training.finish()
        check()
        outcome = {
            "status": result.status,
            "metric": result.metrics.get(self._metric),
            "metrics": result.metrics,
            "trajectory": result.trajectory,
            "seconds": result.seconds,
        }
        predictions, stitch = None, None
        if result.predictions is None:
            outcome["error"] = "the loss stopped being finite"
        else:
            predictions = result.predictions.numpy()
            stitch = training.pack_stitch(self.spec)
        self.record(outcome, predictions, stitch)


def note_error(writer: Any, trial: str, error: Exception) -> None:
    """Record why a trial must start again in a new process; the trial itself is not at fault."""
    reason = f"{type(error).__name__}: {error}"
    ray.get(writer.note.remote(trial, reason, out_of_memory=is_out_of_memory(error)))
