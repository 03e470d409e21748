"""What runs on the workers: a Tune Trainable that trains stitches one after the other.

The actor is reused, so its process pays once for importing torch, receiving the data and the networks,
and computing a sender's activations.
"""

from __future__ import annotations

import json
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from stitch_sweep.config.models import Config, TrialSettings
from stitch_sweep.data.images import SPLITS, Data, Images
from stitch_sweep.networks.frozen import FrozenError
from stitch_sweep.storage.checkpoints import take_up
from stitch_sweep.storage.files import is_storage_error
from stitch_sweep.sweep.gpu import hold_to, is_broken_device, is_out_of_memory, refusals
from stitch_sweep.sweep.shelf import NodeShelf
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.workbench import Workbench


@dataclass(frozen=True)
class Shared:
    """What every worker of a sweep gets, through Ray's object store.

    Attributes:
        config: the configuration.
        data: reference to the data set, its tensors as NumPy arrays.
        networks: reference to the networks by name.
        writer: the `LedgerWriter` actor.
        context: bytes that a process takes of a GPU before it computes; see `sweep.gpu`.
        report_seconds: a step of a trial lasts at least so long, so that Tune hears of it that often.
        checkpoint_seconds: at least so long lies between two checkpoints of a trial.
    """

    config: Config
    data: Any
    networks: Any
    writer: Any
    context: int = 0
    report_seconds: float = 5.0
    checkpoint_seconds: float = 60.0


SAID = "said"
"""Key of a worker's result: a text for the user, because a worker's own output goes to log files."""

STOPPED = "stopped"
"""Key of a worker's result: why nothing can be recorded any more, here or from any other worker."""

# A changed network is among them: whatever changed it, a new process has it as it was.
_INFRASTRUCTURE = (
    FrozenError,
    MemoryError,
    OSError,
    ray.exceptions.RayError,
)


class StitchTrainable(tune.Trainable):
    """One trial for Ray Tune; its actor is reused for the next one."""

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        """Called once per process."""
        assert shared is not None
        self._shared = shared
        self._begin(config)
        try:
            hold_to(self._gpu, shared.context)
            data = data_from_arrays(ray.get(shared.data))
            self._bench = Workbench(
                shared.config, data, ray.get(shared.networks), shelf=NodeShelf()
            )
        except Exception as error:
            self._note(error)
            raise

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called for every further trial of this process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train for a while; at the end the ledger hears of it before Tune does."""
        began = time.monotonic()
        try:
            training = self._training
            if training is None:
                training, said = self._take_up()
                if said is not None:
                    return {"done": False, "epoch": training.epoch, SAID: said}
            while not training.done:
                training.run_epoch()
                self._check_memory()  # before anything of it is kept
                self._maybe_checkpoint(training)
                if time.monotonic() - began >= self._shared.report_seconds:
                    break
            if not training.done:
                return {"done": False, "epoch": training.epoch}
            self._conclude(training)
        except Exception as error:
            cause = getattr(error, "cause", None)  # of what the ledger's actor raised
            if is_storage_error(cause):
                return {"done": True, STOPPED: str(cause)}
            short = is_out_of_memory(error)
            larger = short and not self._larger and self._gpu < 1  # there is a larger share to try
            if larger or (not short and self._is_infrastructure(error, cause)):
                self._note(error)
                raise
            self._fail(error)  # a trial that can't be trained is a result; the sweep goes on
        return {"done": True}

    @staticmethod
    def _is_infrastructure(error: Exception, cause: BaseException | None) -> bool:
        # What the ledger's actor can't write down of a trial is the trial's.
        own = isinstance(cause, ValueError)
        return not own and (isinstance(error, _INFRASTRUCTURE) or is_broken_device(error))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune's checkpoints are off: ours go to the ledger."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""

    def _note(self, error: Exception) -> None:
        """Keep why the trial has to be started again, in a new process: it isn't its own doing."""
        why = f"{type(error).__name__}: {error}"
        short = is_out_of_memory(error)
        ray.get(self._shared.writer.note.remote(self._spec["trial"], why, out_of_memory=short))

    def _begin(self, config: Mapping[str, Any]) -> None:
        self._spec = json.loads(config["spec"])
        self._gpu, self._larger = float(config["gpu"]), bool(config["larger"])
        self._refused = refusals()
        self._training: StitchTraining | None = None
        self._started = time.time()
        self._stored = time.monotonic()

    def _take_up(self) -> tuple[StitchTraining, str | None]:
        """The trial's training, where an interrupted process left it if one did; what was wrong."""
        spec = self._spec
        training = self._bench.training(
            spec["sender"],
            spec["sender_layer"],
            spec["receiver"],
            spec["receiver_layer"],
            TrialSettings.model_validate(spec["settings"]),
            spec["repeat"],
        )
        _, said = take_up(
            ray.get(self._shared.writer.read_checkpoints.remote(spec["trial"])),
            training.restore,
            f"trial {spec['trial']} starts from the beginning",
        )
        self._training = training
        return training, said

    def _check_memory(self) -> None:
        if 0 < self._gpu < 1 and refusals() > self._refused:
            raise torch.OutOfMemoryError(
                "CUDA out of memory: a library went on with another algorithm, which gives other bits"
            )

    def _maybe_checkpoint(self, training: StitchTraining) -> None:
        now = time.monotonic()
        if not training.done and now - self._stored >= self._shared.checkpoint_seconds:
            data = training.checkpoint()
            ray.get(self._shared.writer.checkpoint.remote(self._spec["trial"], data))
            self._stored = now

    def _conclude(self, training: StitchTraining) -> None:
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

    def _fail(self, error: Exception) -> None:
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


class WaitForWorkers(FIFOScheduler):
    """Starts trials in their order, each on its own worker while that one is still starting.

    Tune's own scheduler moves a waiting trial to any worker that becomes free and drops the one that
    was being started for it. With trials shorter than a worker's start there would only ever be one.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Leave the choice to the controller, which gives free workers to trials that have none."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Drop the statistics that Tune keeps of all that a trial reported: nobody asks for them.

        They are most of what a trial that has ended takes of the driver's memory.
        """
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()


def data_to_arrays(data: Data) -> dict[str, Any]:
    """A data set as NumPy arrays, which processes of one node read from shared memory, uncopied."""
    splits = {split: getattr(data, split) for split in SPLITS}
    return {
        "splits": {k: (v.images.numpy(), v.labels.numpy(), v.files) for k, v in splits.items()},
        "rest": {f.name: getattr(data, f.name) for f in fields(data) if f.name not in splits},
    }


def data_from_arrays(arrays: Mapping[str, Any]) -> Data:
    """The data set that `data_to_arrays` took apart."""
    with warnings.catch_warnings():
        # The arrays are read-only, and nobody writes to images.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        splits: dict[str, Any] = {
            split: Images(torch.from_numpy(images), torch.from_numpy(labels), files)
            for split, (images, labels, files) in arrays["splits"].items()
        }
    return Data(**splits, **arrays["rest"])
