"""The program of a worker: a Tune Trainable that trains stitches one after the other.

The actor is reused, so its process pays only once for the import of torch, for receiving the data and the
networks, and for a sender's activations.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.networks.frozen import FrozenError
from stitch_sweep.storage.checkpoint_files import resume_newest
from stitch_sweep.storage.files import is_storage_error
from stitch_sweep.sweep.data_transfer import data_from_arrays
from stitch_sweep.sweep.gpu_errors import is_broken_device, is_out_of_memory
from stitch_sweep.sweep.gpu_memory import count_refused_allocations, limit_memory
from stitch_sweep.sweep.ray_setup import ray, tune
from stitch_sweep.sweep.shelf import NodeShelf
from stitch_sweep.training.loop import StitchTraining
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
        report_seconds: minimum duration of a trial's step, after which Tune hears of the trial.
        checkpoint_seconds: minimum time between two checkpoints of a trial.
    """

    config: Config
    data: Any
    networks: Any
    writer: Any
    context: int = 0
    report_seconds: float = 5.0
    checkpoint_seconds: float = 60.0


MESSAGE = "said"
"""Key of a worker's result: a text for the user, because a worker's own output goes to log files."""

STOPPED = "stopped"
"""Key of a worker's result: why no worker can record anything any more."""

# A changed network is one of them: a new process has the original.
_INFRASTRUCTURE = (
    FrozenError,
    MemoryError,
    OSError,
    ray.exceptions.RayError,
)


class StitchTrainable(tune.Trainable):
    """One trial for Ray Tune. Ray reuses its process for the next trial."""

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        """Prepare the process; called once."""
        assert shared is not None
        self._shared = shared
        self._begin(config)
        try:
            limit_memory(self._gpu, shared.context)
            data = data_from_arrays(ray.get(shared.data))
            self._bench = Workbench(
                shared.config, data, ray.get(shared.networks), shelf=NodeShelf()
            )
        except Exception as error:
            self._note(error)
            raise

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin a further trial in this process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train for a while. At the end, the ledger hears of the result before Tune does."""
        began = time.monotonic()
        try:
            training = self._training
            if training is None:
                training, message = self._resume_training()
                if message is not None:
                    return {"done": False, "epoch": training.epoch, MESSAGE: message}
            while not training.done:
                training.run_epoch()
                self._check_memory()  # before anything of the epoch is stored
                self._maybe_checkpoint(training)
                if time.monotonic() - began >= self._shared.report_seconds:
                    break
            if not training.done:
                return {"done": False, "epoch": training.epoch}
            self._record_result(training)
        except Exception as error:
            cause = getattr(error, "cause", None)  # the exception that the ledger's actor raised
            if is_storage_error(cause):
                return {"done": True, STOPPED: str(cause)}
            out_of_memory = is_out_of_memory(error)
            has_larger_share = out_of_memory and not self._larger and self._gpu < 1
            if has_larger_share or (not out_of_memory and self._is_infrastructure(error, cause)):
                self._note(error)
                raise
            self._record_failure(error)  # a trial that can't be trained is a result
        return {"done": True}

    @staticmethod
    def _is_infrastructure(error: Exception, cause: BaseException | None) -> bool:
        # If the ledger's actor can't write a trial's values, the trial is at fault.
        is_trial_fault = isinstance(cause, ValueError)
        return not is_trial_fault and (
            isinstance(error, _INFRASTRUCTURE) or is_broken_device(error)
        )

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: Tune's checkpoints are off, because the ledger keeps the checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing; see `save_checkpoint`."""

    def _note(self, error: Exception) -> None:
        """Record why the trial must start again in a new process; the trial itself is not at fault."""
        reason = f"{type(error).__name__}: {error}"
        out_of_memory = is_out_of_memory(error)
        writer = self._shared.writer
        ray.get(writer.note.remote(self._spec["trial"], reason, out_of_memory=out_of_memory))

    def _begin(self, config: Mapping[str, Any]) -> None:
        self._spec = json.loads(config["spec"])
        self._gpu, self._larger = float(config["gpu"]), bool(config["larger"])
        self._refused_before = count_refused_allocations()
        self._training: StitchTraining | None = None
        self._started = time.time()
        self._stored = time.monotonic()

    def _resume_training(self) -> tuple[StitchTraining, str | None]:
        """Build the trial's training, from its checkpoint if it has one.

        Returns:
            The training, and a message for the user if a checkpoint couldn't be used.
        """
        spec = self._spec
        training = self._bench.training(
            spec["sender"],
            spec["sender_layer"],
            spec["receiver"],
            spec["receiver_layer"],
            TrialSettings.model_validate(spec["settings"]),
            spec["repeat"],
        )
        _, message = resume_newest(
            ray.get(self._shared.writer.read_checkpoints.remote(spec["trial"])),
            training.restore,
            f"trial {spec['trial']} starts from the beginning",
        )
        self._training = training
        return training, message

    def _check_memory(self) -> None:
        if 0 < self._gpu < 1 and count_refused_allocations() > self._refused_before:
            raise torch.OutOfMemoryError(
                "CUDA out of memory: a library continued with another algorithm, which gives other bits"
            )

    def _maybe_checkpoint(self, training: StitchTraining) -> None:
        now = time.monotonic()
        if not training.done and now - self._stored >= self._shared.checkpoint_seconds:
            data = training.checkpoint()
            ray.get(self._shared.writer.checkpoint.remote(self._spec["trial"], data))
            self._stored = now

    def _record_result(self, training: StitchTraining) -> None:
        result = training.finish()
        self._check_memory()
        metric = self._shared.config.search.metric
        outcome = {
            "status": result.status,
            "metric": result.metrics.get(metric),
            "metrics": result.metrics,
            "trajectory": result.trajectory,
            "seconds": result.seconds,
        }
        predictions, stitch = None, None
        if result.predictions is None:
            outcome["error"] = "the loss stopped being finite"
        else:
            predictions = result.predictions.numpy()
            stitch = training.pack_stitch(self._spec)
        self._tell_ledger(outcome, predictions, stitch)

    def _record_failure(self, error: Exception) -> None:
        training = self._training
        outcome: dict[str, Any] = {
            "status": "failed",
            "metric": None,
            "metrics": {},
            "trajectory": training.trajectory if training else [],
            "seconds": training.seconds if training else 0.0,
            "error": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
        }
        self._tell_ledger(outcome, None, None)

    def _tell_ledger(
        self, outcome: dict[str, Any], predictions: np.ndarray | None, stitch: bytes | None
    ) -> None:
        outcome |= {"started": self._started, "worker": ray.get_runtime_context().get_worker_id()}
        writer = self._shared.writer
        ray.get(writer.finish.remote(self._spec["trial"], outcome, predictions, stitch))
