"""The training of one stitch between two frozen networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.generators import OwnGenerators
from stitch_sweep.core.seeding import derive, seed_everything
from stitch_sweep.core.splits import SHORT_SPLITS, SPLITS
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.frozen import FrozenNetwork, FrozenSender
from stitch_sweep.networks.optimization import Optimization
from stitch_sweep.stitches.capacity import l1_norm
from stitch_sweep.stitches.storage import pack_stitch
from stitch_sweep.storage.checkpoints import pack
from stitch_sweep.training.cell import TrainingCell
from stitch_sweep.training.checkpoint import read_checkpoint, training_identity
from stitch_sweep.training.evaluations import evaluation_steps
from stitch_sweep.training.joint_step import joint_step
from stitch_sweep.training.learning_curve import CurveRecorder, LearningCurve
from stitch_sweep.training.representations import ActivationCache, Rows
from stitch_sweep.training.selection import Selection, selection_metric
from stitch_sweep.training.shared_pass import SharedPass
from stitch_sweep.training.sums import WeightedSums, name_losses
from stitch_sweep.training.work_clock import WorkClock


@dataclass(frozen=True)
class StitchResult:
    """The result of training one stitch.

    Attributes:
        status: `finished`, or `failed` if the loss became NaN or infinite.
        metrics: final metrics; see `StitchTraining.finish`. Empty for a failed training.
        trajectory: a row per logged step: step, epoch, split, loss, a column per loss term,
            accuracy (in [0, 1]), lr, time (seconds of training so far). With `training.keep: best`
            also kept: whether the stitch of this validation is the result. A training without steps
            has one row, the validation of its stitch, as step 0.
        predictions: int64 [N], the predicted class of every test image; None for a failed training.
        stitch: the trained module, on the CPU.
        seconds: duration of training and evaluation; in a pack, its share of the joint steps.
    """

    status: str
    metrics: dict[str, Any]
    trajectory: list[dict[str, Any]]
    predictions: Tensor | None
    stitch: nn.Module
    seconds: float


@dataclass(frozen=True)
class StepLoss:
    """The loss of one training batch.

    Attributes:
        loss: the loss of the batch, a scalar to be differentiated.
        penalty: the weighted penalty of the stitch's own weights, likewise; None without a penalty.
        values: what the trajectory shows of the batch: losses, and the accuracy where there are logits.
        count: number of images.
    """

    loss: Tensor
    penalty: Tensor | None
    values: dict[str, Tensor]
    count: int


class StitchTraining:
    """The training of one stitch, which can be advanced, stored and resumed.

    Args:
        sender: the network that is cut after `sender_layer`, or a control in its place.
        receiver: the network that continues after `receiver_layer`.
        sender_layer: -1 (the image) or a layer's index.
        receiver_layer: -1 (the stitch produces an image) or a layer's index.
        loaders: `train`, `validation` and `test`, all on the device of the training.
        settings: stitch, loss and training settings.
        seed: the sweep's seed; decides order, augmentation and the stitch's initial weights.
        repeat: selects other initial weights under the same seed.
        threads: torch's intra-op threads.
        cache: representations shared with other trainings; by default a private cache.
        pack_width: number of places in a pass of the receiver's rest, which influences the last bits of
            the result. See `Pack` for several trainings in one pass; a training that runs alone leaves
            the other places empty.
        start: file of a stitch of the same type and shapes, whose weights are the initial ones; None to
            start as the settings say.

    Raises:
        InputError: the stitch can't join these layers, a layer doesn't exist, or a loss needs the
            predictions of a sender that makes none.
        FrozenError: a network has changed since it was frozen.
    """

    def __init__(
        self,
        sender: FrozenSender,
        receiver: FrozenNetwork,
        sender_layer: int,
        receiver_layer: int,
        loaders: Mapping[str, Loader],
        settings: TrialSettings,
        *,
        seed: int = 0,
        repeat: int = 0,
        threads: int = 1,
        cache: ActivationCache | None = None,
        pack_width: int = 1,
        start: bytes | None = None,
    ) -> None:
        self.clock = WorkClock()
        self.clock.start()
        seed_everything(derive(seed, repeat, "training"), threads)
        self.settings = settings
        self._networks: tuple[FrozenSender, FrozenNetwork] = (sender, receiver)
        for network in dict.fromkeys(self._networks):  # sender and receiver may be the same network
            network.verify()
        train = loaders["train"]
        self._device = train.device
        self._identity = training_identity(
            (sender, sender_layer),
            (receiver, receiver_layer),
            loaders,
            settings,
            seed=seed,
            repeat=repeat,
            threads=threads,
            pack_width=pack_width,
            start=start,
        )
        self._cell = TrainingCell(
            sender,
            receiver,
            sender_layer,
            receiver_layer,
            loaders,
            settings,
            seed,
            repeat,
            cache or ActivationCache(limit_bytes=2**31),
            start,
        )
        self.stitch = self._cell.stitch
        self.pack_width = pack_width
        self.rest = self._cell.stitched.training_rest
        self._pass_shape = self.rest, pack_width, len(train.images), train.batch_size, train.device
        self._shared = SharedPass(self.rest, pack_width)
        self.steps_per_epoch = len(train)
        # An identity has no parameters, and an optimizer refuses an empty list.
        parameters = [p for p in self.stitch.parameters() if p.requires_grad]
        self.total_steps = self._cell.epochs * self.steps_per_epoch
        self._optimization = Optimization(
            parameters or [nn.Parameter(torch.zeros(1))],
            settings.training.optimizer,
            settings.training.schedule,
            self.total_steps,
            self._cell.default_lr(settings.training.optimizer.name),
        )
        self._log_every = settings.training.log_every or max(1, self.steps_per_epoch // 4)
        self._evaluation_steps = evaluation_steps(
            self.steps_per_epoch, settings.training.evaluate_every
        )
        self._selection = Selection(
            selection_metric([term.name for term in settings.loss.terms]),
            keeps_best=settings.training.keep == "best",
            patience=settings.training.patience,
        )
        self._interval_sums = WeightedSums()
        self._curve = CurveRecorder(self.total_steps)
        self._lr = 0.0
        self.trajectory: list[dict[str, Any]] = []
        self.failed = False
        self.generators = OwnGenerators(self._device, every=self._cell.runs_foreign_code())
        if self._selection.is_needed and self.total_steps > 0:
            self._evaluate()
        self.clock.stop()

    @property
    def step(self) -> int:
        """Number of optimizer steps taken."""
        return self._optimization.step_count

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return self.step // self.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether the training has ended, at its last step or because validations stopped improving."""
        return self.failed or self.step >= self.total_steps or self._selection.is_exhausted

    @property
    def seconds(self) -> float:
        """Time of its work so far, including that in earlier processes; see `WorkClock`."""
        return self.clock.seconds

    def run_epoch(self) -> None:
        """Train to the end of the current epoch."""
        self.advance(self.steps_per_epoch - self.step % self.steps_per_epoch)

    def advance(self, steps: int) -> None:
        """Take at most `steps` optimizer steps; stop when done or when the loss isn't finite."""
        stop = min(self.step + steps, self.total_steps)
        with self.clock:
            while self.step < stop and not self.done:
                for rows in self.remaining_batches():
                    self._train_step(rows)
                    if self.done or self.step >= stop:
                        break

    def remaining_batches(self) -> Iterator[Rows]:
        """Iterate over the batches of the current epoch that the training hasn't seen."""
        return self._cell.splits["train"].batches(self.epoch, self.step % self.steps_per_epoch)

    @property
    def shares_rest(self) -> bool:
        """Whether the logits come from a pass of the whole rest, which several trainings can share."""
        return self._cell.loss.needs_logits and not self._cell.loss.needs_hints

    def can_share_with(self, other: StitchTraining) -> bool:
        """Return whether the batches of both trainings fit into one pass of the rest, step by step."""
        return self._pass_shape == other._pass_shape

    def stitch_batch(self, rows: Rows) -> Tensor:
        """Apply the stitch to a training batch; return its output with its history."""
        self.stitch.train()
        self._optimization.clear_gradients()
        return self.stitch(rows["sender"])

    def compute_loss(self, rows: Rows, stitched: Tensor, logits: Tensor | None) -> StepLoss:
        """Compute the loss of a training batch.

        Args:
            rows: the batch.
            stitched: the stitch's output.
            logits: the output of the receiver's rest; None unless `shares_rest`.
        """
        inputs = self._cell.stitched.complete_inputs(rows, stitched, logits)
        loss, terms = self._cell.loss(inputs)
        total, penalty = loss, None
        if l1 := self.settings.stitch.l1:
            terms["l1"] = l1_norm(self.stitch)
            penalty = l1 * terms["l1"]
            total = loss + penalty
        values = name_losses(total, terms)
        if inputs.logits is not None:
            correct = inputs.logits.argmax(dim=1) == inputs.labels
            values["accuracy"] = correct.double().mean()
        return StepLoss(loss, penalty, values, len(inputs.labels))

    def finish(self) -> StitchResult:
        """Evaluate the final stitch once, and check that the networks have not changed.

        The final stitch is an ordinary one: that of the last step, or with `training.keep: best` that
        of the best validation.

        Metrics, each for `train` (all images or a sample: `training.train_metrics`), `val` and `test`,
        on images without augmentation: `_accuracy`;
        `_loss`, the loss of the training, and `_loss.<term>`, its terms before weighting. Further
        metrics:

        - `receiver_accuracy`, `sender_accuracy`: the networks' own accuracies on the test set; None for a
          sender that doesn't classify.
        - `penalty` = receiver_accuracy - test_accuracy.
        - `accuracy_raw` (the test accuracy) and `accuracy_calibrated`, the test accuracy with the
          calibration: a map after the stitch that corrects what the loss is blind to.
        - `val_<measure>`: every measure of `SimilarityMeasures` on the validation images; None if
          undefined.
        - `stitch_parameters`, `stitch_multiply_adds`: see `Capacity`.
        - `converged`: see `docs/explanation/recipes.md`.
        - `optimal_train_loss`: the smallest possible `train_loss`, for another loss with a closed form.
        - `train_relative_mse`, `optimal_relative_mse`, `excess`: for an affine stitch trained for MSE, in
          units of the expected representation's variance.

        Returns:
            The result; for a failed training it contains the trajectory only.

        Raises:
            FrozenError: a network changed.
            RuntimeError: the training isn't done.
        """
        if not self.done:
            raise RuntimeError(f"only {self.step} of {self.total_steps} steps are done")
        self.clock.start()
        metrics: dict[str, Any] = {}
        predictions = None
        if not self.failed:
            self._keep_best()
        self._cell.use(self._cell.fold_stitch())
        self.stitch = self._cell.stitch
        if not self.failed:
            for split in SPLITS:
                with self.generators:
                    values, predictions = self._cell.measure_result(split)
                metrics |= {f"{SHORT_SPLITS[split]}_{name}": v for name, v in values.items()}
                if split == "validation" and self.total_steps == 0:
                    self._log(split, values)
            self.failed = not all(math.isfinite(value) for value in metrics.values())
        for network in self._networks:
            network.verify()
        if self.failed:
            metrics, predictions = {}, None
        else:
            validations = [
                row for row in self.trajectory if row["split"] == "validation" and row["step"] > 0
            ]
            curve = LearningCurve(
                pieces=self._curve.pieces,
                validations=[(row["step"], row["accuracy"]) for row in validations],
                total_steps=self.total_steps,
                schedule=self.settings.training.schedule,
            )
            metrics |= self._cell.final_metrics(metrics, curve)
        self.clock.stop()
        return StitchResult(
            status="failed" if self.failed else "finished",
            metrics=metrics,
            trajectory=self.trajectory,
            predictions=predictions,
            stitch=self.stitch.cpu(),
            seconds=self.seconds,
        )

    def pack_stitch(self, about: Mapping[str, Any]) -> bytes:
        """Serialize the current stitch, as an ordinary one, for a file that `load_stitch` reads.

        Args:
            about: origin of the stitch, as plain data.
        """
        stitch = self.settings.stitch
        ordinary = self._cell.fold_stitch()
        return pack_stitch(ordinary, stitch.name, *self._cell.shapes, stitch.options, about)

    def release_representations(self) -> None:
        """Free memory while the training waits; it continues with the same bits."""
        self._cell.release_representations()

    def checkpoint(self) -> bytes:
        """Serialize everything that is needed to resume, also in another process: see `restore`."""
        state = {
            "of": self._identity,
            "stitch": dict(self.stitch.state_dict()),
            "optimization": self._optimization.state_dict(),
            "interval": self._interval_sums.state,
            "curve": self._curve.state_dict(),
            "trajectory": self.trajectory,
            "failed": self.failed,
            "seconds": self.seconds,
            "generators": self.generators.states,
        }
        if self._selection.is_needed:
            state["selection"] = self._selection.state_dict()
        return pack(state)

    def restore(self, checkpoint: bytes) -> None:
        """Resume a training of the same cell and settings from its checkpoint.

        Raises:
            CheckpointError: the bytes are damaged, or aren't a checkpoint of this training. In this case
                nothing is changed.
        """
        state = read_checkpoint(checkpoint, self._identity)
        self.stitch.load_state_dict(state["stitch"])
        self._optimization.load_state_dict(state["optimization"])
        self._interval_sums = WeightedSums.on(self._device, state["interval"])
        if "curve" in state:  # earlier versions stored none
            self._curve.load_state_dict(state["curve"], self._device)
        if self._selection.is_needed:
            self._selection.load_state_dict(state["selection"])
        self.trajectory = state["trajectory"]
        self.failed = state["failed"]
        self.clock.reset(state["seconds"])
        self.generators.states = state["generators"]

    def _train_step(self, rows: Rows) -> None:
        members = [(self, rows), *[None] * (self.pack_width - 1)]
        for error in joint_step(members, self._shared).values():
            raise error

    def end_step(self, step: StepLoss) -> None:
        """Update the stitch with its gradients; log what is due."""
        self._lr = self._optimization.apply_gradients()
        self._interval_sums.add(step.values, step.count)
        self._curve.add(self.step, step.values, step.count)
        step_of_epoch = (self.step - 1) % self.steps_per_epoch + 1
        if step_of_epoch == self.steps_per_epoch or self.step % self._log_every == 0:
            self._log_train()
        if step_of_epoch in self._evaluation_steps and not self.failed:
            self._evaluate()

    def _evaluate(self) -> None:
        """Validate the present stitch; log the result, and note whether it is the best."""
        values = self._cell.measure("validation")[0]
        self._log("validation", values)
        if not self.failed:
            self._selection.add(self.step, values, self.stitch)

    def _keep_best(self) -> None:
        """Return to the stitch of the best validation, and mark its row, if that one is to be kept."""
        kept = self._selection.load_best(self.stitch)
        if kept is not None:
            self.trajectory = [
                {**row, "kept": (row["split"], row["step"]) == ("validation", kept)}
                for row in self.trajectory
            ]

    def _log_train(self) -> None:
        row = self._interval_sums.means()
        self._interval_sums = WeightedSums()
        # The trajectory ends with the last finite values.
        self.failed = not math.isfinite(row["loss"])
        if not self.failed:
            self._log("train", row)

    def _log(self, split: str, values: Mapping[str, float]) -> None:
        if not all(math.isfinite(value) for value in values.values()):
            self.failed = True
            return
        epoch = math.ceil(self.step / self.steps_per_epoch)
        row = {"step": self.step, "epoch": epoch, "split": split, "accuracy": None, **values}
        self.trajectory.append({**row, "lr": self._lr, "time": self.seconds})
