"""Train one stitch between two frozen networks.

Nothing here knows of Ray, Optuna or MLflow. From a notebook:

    >>> result = train_stitch(a, b, sender_layer=2, receiver_layer=3, data=data)
    >>> result.metrics["test_accuracy"]
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from stitch_sweep.config.models import TrialSettings
from stitch_sweep.config.optimization import Optimization
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import derive, seed_everything
from stitch_sweep.data.images import SPLITS, Data
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.losses.base import CombinedLoss, LossContext, LossInputs
from stitch_sweep.losses.calibration import Calibration
from stitch_sweep.losses.measures import SimilarityMeasures
from stitch_sweep.losses.rows import channels_first
from stitch_sweep.networks.controls import freeze
from stitch_sweep.networks.evaluation import CHUNK, Scores
from stitch_sweep.networks.frozen import Examples, FrozenNetwork, FrozenSender
from stitch_sweep.stitches.base import DATA_STARTS, AffineStitch
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.capacity import capacity, l1_norm
from stitch_sweep.stitches.least_squares import LeastSquares, has_optimum
from stitch_sweep.stitches.shapes import channel_axis
from stitch_sweep.stitches.starts import start_stitch
from stitch_sweep.stitches.storage import pack_stitch
from stitch_sweep.storage.checkpoints import (
    FORMAT,
    CheckpointError,
    digest,
    generators,
    pack,
    set_generators,
    unpack,
)

EXCESS_ALLOWED = 0.05
"""A stitch with a closed form has converged when its error is at most this share above it."""
EXCESS_FLOOR = 0.01
"""The share is taken of at least this much of the expected variance: a perfect optimum is 0."""
PLATEAU = 0.05
"""Without a closed form: the share of the first epoch's training loss that a further quarter of the
training, at the full learning rate, may still be expected to take off."""
FLAT_ACCURACY = 0.05
"""How far the same further quarter may be expected to move the validation accuracy of a stitch that was
trained for the task and whose training loss still falls."""
LEAST_IMAGES = 1000
"""Validation images from which on an accuracy is sure enough to say so."""

_SHORT = {"train": "train", "validation": "val", "test": "test"}


class _Batch(NamedTuple):
    labels: Tensor
    sender: Tensor
    expected: Tensor | None = None
    expected_logits: Tensor | None = None
    sender_logits: Tensor | None = None


_Role = tuple[FrozenSender, int | None]
"""A sender or receiver, and the layer of it that is wanted; None for its logits."""


class Shelf(Protocol):
    """Where trainings of several processes keep representations for each other."""

    def take(self, key: str) -> Tensor | None:
        """What is kept under a key, on the CPU; None without it. It may not be written to."""
        ...

    def offer(self, key: str, representation: Tensor) -> Tensor:
        """Keep a representation; it, or the same values from where they are kept now."""
        ...


class ActivationCache:
    """Frozen representations of whole splits, computed once and shared by trials of one process.

    Of each role (sender or expected, and split) only the latest is kept: cells come sender by sender.

    Args:
        limit_bytes: a representation larger than this is never kept but recomputed batch by batch.
            It decides by size alone, never by what else is in memory, so that results don't depend
            on what a process did before. They may depend on the limit, in their last bits: what is
            kept was computed in evaluation chunks, the rest is in batches.
        shelf: where other processes' representations are, of networks of the same names and the same
            images; None to share with no one.
    """

    def __init__(self, limit_bytes: float, shelf: Shelf | None = None) -> None:
        self.limit_bytes = limit_bytes
        self._shelf = shelf
        self._kept: dict[str, tuple[Tensor, FrozenSender, int | None, Tensor]] = {}

    @torch.no_grad()
    def get(
        self, role: str, network: FrozenSender, layer: int | None, loader: Loader
    ) -> Tensor | None:
        """The representation of every image, [N, *shape], or None where it is too large."""
        images, of, of_layer, whole = self._kept.get(role, (None, None, 0, None))
        # By identity: both are held here, so nothing else can take their place in memory.
        if images is loader.images.images and of is network and of_layer == layer:
            return whole
        self._kept.pop(role, None)
        count = len(loader.images)
        shape = network.shape(layer, loader.images.images.shape[1:])
        if 4 * count * math.prod(shape) > self.limit_bytes:
            return None
        whole = self._shared(network, layer, loader, (count, *shape))
        self._kept[role] = (loader.images.images, network, layer, whole)
        return whole

    def _shared(
        self, network: FrozenSender, layer: int | None, loader: Loader, shape: tuple[int, ...]
    ) -> Tensor:
        key = f"{network.name} {layer} {loader.split}"
        if self._shelf is not None and (found := self._shelf.take(key)) is not None:
            return found.to(loader.device)
        whole = torch.empty(shape, device=loader.device)
        for k, (examples, valid) in enumerate(_in_order(loader)):
            whole[k * CHUNK : k * CHUNK + valid] = network.represent(layer, examples)[:valid]
        return whole if self._shelf is None else self._shelf.offer(key, whole)


def _in_order(loader: Loader) -> Iterator[tuple[Examples, int]]:
    """The whole split in stored order, in padded chunks, each with its number of real rows."""
    count = len(loader.images)
    for k, (images, labels, valid) in enumerate(loader.in_order(CHUNK)):
        numbers = torch.arange(k * CHUNK, (k + 1) * CHUNK, device=loader.device) % count
        yield Examples(loader.split, numbers, images, labels), valid


class _Representations:
    """What sender and receiver make of one split: from the cache where it fits, else on the fly."""

    def __init__(
        self,
        split: str,
        loader: Loader,
        parts: Mapping[str, _Role],
        cache: ActivationCache,
    ) -> None:
        self._loader = loader
        self._parts = parts
        self._whole = {
            role: cache.get(f"{role} {split}", network, layer, loader)
            for role, (network, layer) in parts.items()
        }
        self._complete = all(whole is not None for whole in self._whole.values())

    @property
    def count(self) -> int:
        return len(self._loader.images)

    def batches(self, epoch: int, start: int) -> Iterator[_Batch]:
        """The training batches of an epoch from the `start`-th on."""
        if self._loader.augment == "none" and self._complete:
            for numbers in self._loader.indices(epoch, start):
                yield self._taken(numbers)
        else:
            for numbers, images, labels in self._loader.batches(epoch, start):
                yield self._made(Examples(self._loader.split, numbers, images, labels))

    def chunks(self) -> Iterator[tuple[_Batch, int]]:
        """The whole split in stored order, in padded chunks, each with its number of real rows."""
        if self._complete:
            for first in range(0, self.count, CHUNK):
                numbers = torch.arange(first, first + CHUNK, device=self._loader.device)
                yield self._taken(numbers % self.count), min(CHUNK, self.count - first)
        else:
            for examples, valid in _in_order(self._loader):
                yield self._made(examples), valid

    def _taken(self, numbers: Tensor) -> _Batch:
        kept = {role: whole[numbers] for role, whole in self._whole.items() if whole is not None}
        return _Batch(self._loader.images.labels[numbers], **kept)

    @torch.no_grad()
    def _made(self, examples: Examples) -> _Batch:
        made = {role: of.represent(layer, examples) for role, (of, layer) in self._parts.items()}
        return _Batch(examples.labels, **made)


@dataclass(frozen=True)
class StitchResult:
    """What came of one stitch.

    Attributes:
        status: `finished`, or `failed` when the loss stopped being finite.
        metrics: final figures; see `StitchTraining.finish`. Empty for a failed training.
        trajectory: a row per logged step: step, epoch, split, loss, a column per loss term,
            accuracy (in [0, 1]), lr, time (seconds of training so far).
        predictions: int64 [N], the class predicted for every test image; None for a failed training.
        stitch: the trained module, on the CPU.
        seconds: time spent training and evaluating.
    """

    status: str
    metrics: dict[str, Any]
    trajectory: list[dict[str, Any]]
    predictions: Tensor | None
    stitch: nn.Module
    seconds: float


@dataclass
class _Running:
    """Sums since the last logged row and since the epoch began; part of a checkpoint."""

    interval: dict[str, Any] = field(default_factory=dict)
    epoch: dict[str, Any] = field(default_factory=dict)

    def add(self, values: Mapping[str, Tensor], count: int) -> None:
        for sums in (self.interval, self.epoch):
            sums["count"] = sums.get("count", 0) + count
            for name, value in values.items():
                # Sums stay on the device: reading them out every step would stall a GPU.
                sums[name] = sums.get(name, 0) + value.detach().double() * count


class StitchTraining:
    """The training of one stitch, which can be advanced, stored and taken up again.

    Args:
        sender: the network that is cut after `sender_layer`, or a control in its place.
        receiver: the network that goes on after `receiver_layer`.
        sender_layer: -1 (the image) or a layer's index.
        receiver_layer: -1 (the stitch makes an image) or a layer's index.
        loaders: `train`, `validation` and `test`, all on one device, which is where we compute.
        settings: stitch, loss and training settings.
        seed: the sweep's seed; decides order, augmentation and the stitch's initial weights.
        repeat: gives further initial weights under one seed.
        threads: torch's intra-op threads.
        cache: representations shared with other trainings; a private one without it.

    Raises:
        InputError: the stitch can't join these layers, a layer doesn't exist, or a loss asks for the
            predictions of a sender that makes none.
        FrozenError: a network is not as it was when it was frozen.
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
    ) -> None:
        self._began = time.perf_counter()
        seed_everything(derive(seed, repeat, "training"), threads)
        self.settings = settings
        self._networks: tuple[FrozenSender, FrozenNetwork] = (sender, receiver)
        self._verify()
        self._test_loader = loaders["test"]
        train = loaders["train"]
        self._device, self._augment = train.device, train.augment
        self._identity = {
            "format": FORMAT,
            "sender": [sender.fingerprint, sender_layer],
            "receiver": [receiver.fingerprint, receiver_layer],
            "settings": settings.model_dump(mode="json"),
            "seed": [seed, repeat],
            "augment": train.augment,
            "labels": digest({k: loader.images.labels for k, loader in loaders.items()}),
            # They decide the last bits of what is computed.
            "threads": threads,
            "device": train.device.type,
        }
        image_shape = train.images.images.shape[1:]
        self._shapes = (
            sender.shape(sender_layer, image_shape),
            receiver.shape(receiver_layer, image_shape),
        )
        self.stitch = build_stitch(
            settings.stitch.name,
            *self._shapes,
            start=settings.stitch.start,
            options=settings.stitch.options,
            seed=seed,
            repeat=repeat,
        ).to(train.device)
        self._suffix = receiver.suffix(receiver_layer)
        terms = [(term.name, term.weight, term.options) for term in settings.loss.terms]
        # Built once more below: what it needs has to be known before the expected variance is.
        needs = CombinedLoss(terms, LossContext())
        cache = cache or ActivationCache(limit_bytes=2**31)
        roles: dict[str, _Role] = {
            "sender": (sender, sender_layer),
            "expected": (receiver, receiver_layer),
            "expected_logits": (receiver, None),
            "sender_logits": (sender, None),
        }
        trained_on = needs.roles
        if "sender" in needs.teachers and not sender.classifies:
            raise InputError(no_teacher(sender.name, network=isinstance(sender, FrozenNetwork)))
        also = {
            "train": settings.stitch.start in DATA_STARTS or needs.calibration != "none",
            "validation": True,  # where similarity is measured, whatever was trained for
            "test": False,
        }
        self._splits = {
            split: _Representations(
                split,
                loaders[split],
                {
                    k: v
                    for k, v in roles.items()
                    if k in trained_on or (k == "expected" and also[split])
                },
                cache,
            )
            for split in SPLITS
        }
        self._context = LossContext(
            _expected_variance(self._splits["train"]) if "expected" in trained_on else None
        )
        self._loss = CombinedLoss(terms, self._context)
        # From layer to layer up to the logits, for losses that look at what lies between.
        self._later: list[tuple[int | None, nn.Module]] = []
        if self._loss.needs_hints:
            layers = range(receiver_layer, len(receiver.layer_names))
            for start, end in zip(layers, [*layers[1:], None], strict=True):
                self._later.append((end, receiver.part(start, end)))
        self._fit = start_stitch(self.stitch, settings.stitch.start, self._expected_pairs())
        self._steps_per_epoch = len(train)
        # An identity has nothing to train, and an optimizer refuses an empty list.
        parameters = [p for p in self.stitch.parameters() if p.requires_grad]
        epochs = settings.training.epochs if parameters else 0
        self.total_steps = epochs * self._steps_per_epoch
        self._optimization = Optimization(
            parameters or [nn.Parameter(torch.zeros(1))],
            settings.training.optimizer,
            settings.training.schedule,
            self.total_steps,
            self._loss.default_lr(settings.training.optimizer.name),
        )
        self._log_every = settings.training.log_every or max(1, self._steps_per_epoch // 4)
        self._running = _Running()
        self._epoch_losses: list[float] = []
        self._lr = 0.0
        self._earlier_seconds = 0.0
        self.trajectory: list[dict[str, Any]] = []
        self.failed = False

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self._optimization.step_count

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // self._steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether there is nothing left to train."""
        return self.failed or self.step >= self.total_steps

    @property
    def seconds(self) -> float:
        """Time spent so far, earlier processes included."""
        return self._earlier_seconds + time.perf_counter() - self._began

    def run_epoch(self) -> None:
        """Train to the end of the current epoch."""
        self.advance(self._steps_per_epoch - self.step % self._steps_per_epoch)

    def advance(self, steps: int) -> None:
        """Take up to `steps` optimizer steps; stops early when done or when the loss isn't finite."""
        stop = min(self.step + steps, self.total_steps)
        while self.step < stop and not self.failed:
            start = self.step % self._steps_per_epoch
            for batch in self._splits["train"].batches(self.epoch, start):
                self._train_step(batch)
                if self.failed or self.step >= stop:
                    break

    def finish(self) -> StitchResult:
        """Evaluate the final stitch, once, and check that the networks stayed frozen.

        Metrics, each for `train`, `val` and `test` (on un-augmented images): `_accuracy`; `_loss`, the
        loss that was trained, and `_loss.<term>` for each of its terms before weighting. Besides:
        `receiver_accuracy` and `sender_accuracy`, the networks' own on the test set (the sender's is
        None if it doesn't classify); `penalty` = receiver_accuracy - test_accuracy; `accuracy_raw` (the
        test accuracy) and `accuracy_calibrated`, behind the map that restores what the loss is blind to;
        `val_<measure>`, every measure of `SimilarityMeasures` on the validation images, None where it
        isn't defined; `stitch_parameters` and `stitch_multiply_adds`; `converged`; with an affine stitch
        trained for MSE also `train_relative_mse`, `optimal_relative_mse` and `excess` (all in units of
        the expected representation's variance).

        Returns:
            The result; for a training whose loss stopped being finite only its trajectory.

        Raises:
            FrozenError: a network changed.
            RuntimeError: the training isn't done.
        """
        if not self.done:
            raise RuntimeError(f"only {self.step} of {self.total_steps} steps are done")
        metrics: dict[str, Any] = {}
        predictions = None
        if not self.failed:
            for split in SPLITS:
                measured, scores = self._measure(split)
                metrics |= {f"{_SHORT[split]}_{name}": value for name, value in measured.items()}
                predictions = scores
            self.failed = not all(math.isfinite(value) for value in metrics.values())
        for network in self._networks:
            network.verify()
        if self.failed:
            metrics, predictions = {}, None
        else:
            sender, receiver = self._networks
            own = sender.evaluate(self._test_loader) if sender.classifies else None
            metrics["sender_accuracy"] = None if own is None else own.accuracy
            metrics["receiver_accuracy"] = receiver.evaluate(self._test_loader).accuracy
            metrics["penalty"] = metrics["receiver_accuracy"] - metrics["test_accuracy"]
            metrics |= self._calibrated(metrics["test_accuracy"])
            metrics |= self._similarity()
            metrics |= self._convergence(metrics)
            size = capacity(self.stitch)
            metrics["stitch_parameters"] = size.parameters
            metrics["stitch_multiply_adds"] = size.multiply_adds
        return StitchResult(
            status="failed" if self.failed else "finished",
            metrics=metrics,
            trajectory=self.trajectory,
            predictions=predictions,
            stitch=self.stitch.cpu(),
            seconds=self.seconds,
        )

    def pack_stitch(self, about: Mapping[str, Any]) -> bytes:
        """The stitch as it is now, for a file that `load_stitch` reads.

        Args:
            about: where it comes from, as plain data.
        """
        of = self.settings.stitch
        return pack_stitch(self.stitch, of.name, *self._shapes, of.options, about)

    def checkpoint(self) -> bytes:
        """Everything needed to go on, in another process too: see `restore`."""
        state = {
            "of": self._identity,
            "stitch": dict(self.stitch.state_dict()),
            "optimization": self._optimization.state_dict(),
            "interval": self._running.interval,
            "epoch": self._running.epoch,
            "epoch_losses": self._epoch_losses,
            "trajectory": self.trajectory,
            "failed": self.failed,
            "seconds": self.seconds,
            "generators": generators(self._device),
        }
        return pack(state)

    def restore(self, checkpoint: bytes) -> None:
        """Take up the training of the same cell and settings where `checkpoint` left it.

        Raises:
            CheckpointError: the bytes are damaged, or no checkpoint of this training; nothing changed.
        """
        state = unpack(checkpoint)
        of = state.get("of")
        if not isinstance(of, Mapping):
            raise CheckpointError("foreign: no checkpoint of a stitch's training")
        if of != self._identity:
            parts = [key for key, value in self._identity.items() if of.get(key) != value]
            raise CheckpointError(
                f"a checkpoint of another training ({', '.join(parts)} not the same)"
            )
        self.stitch.load_state_dict(state["stitch"])
        self._optimization.load_state_dict(state["optimization"])
        self._running = _Running(self._moved(state["interval"]), self._moved(state["epoch"]))
        self._epoch_losses = state["epoch_losses"]
        self.trajectory = state["trajectory"]
        self.failed = state["failed"]
        self._earlier_seconds = state["seconds"]
        self._began = time.perf_counter()
        set_generators(state["generators"], self._device)

    def _verify(self) -> None:
        for network in dict.fromkeys(self._networks):  # a self-pair is one network
            network.verify()

    def _moved(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v.to(self._device) if isinstance(v, Tensor) else v for k, v in sums.items()}

    def _expected_pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What the stitch gets and what it should make of it, over the training set, real rows only."""
        for batch, valid in self._splits["train"].chunks():
            assert batch.expected is not None
            yield batch.sender[:valid], batch.expected[:valid]

    def _forward(self, batch: _Batch, with_logits: bool) -> LossInputs:
        stitched = self.stitch(batch.sender)
        hints: dict[int, tuple[Tensor, Tensor]] | None = None
        logits: Tensor | None = None
        if self._loss.needs_hints:
            assert batch.expected is not None
            hints, logits = self._through(stitched, batch.expected)
        elif with_logits:
            logits = self._suffix(stitched)
        return LossInputs(
            batch.labels,
            stitched,
            batch.expected,
            logits,
            batch.expected_logits,
            batch.sender_logits,
            hints,
        )

    def _through(
        self, stitched: Tensor, expected: Tensor
    ) -> tuple[dict[int, tuple[Tensor, Tensor]], Tensor]:
        """Both representations at every later layer, and the stitched network's logits."""
        hints = {}
        for layer, part in self._later:
            stitched = part(stitched)
            if layer is not None:
                with torch.no_grad():
                    expected = part(expected)
                hints[layer] = (stitched, expected)
        return hints, stitched

    def _train_step(self, batch: _Batch) -> None:
        self.stitch.train()
        inputs = self._forward(batch, self._loss.needs_logits)
        total, terms = self._loss(inputs)
        if l1 := self.settings.stitch.l1:
            terms["l1"] = l1_norm(self.stitch)
            total = total + l1 * terms["l1"]
        self._lr = self._optimization.step(total)
        values = {"loss": total, **{f"loss.{name}": value for name, value in terms.items()}}
        if inputs.logits is not None:
            right = inputs.logits.argmax(dim=1) == batch.labels
            values["accuracy"] = right.double().mean()
        self._running.add(values, len(batch.labels))
        ends_epoch = self.step % self._steps_per_epoch == 0
        if ends_epoch or self.step % self._log_every == 0:
            self._log_train()
        if ends_epoch and not self.failed:
            sums = self._running.epoch
            self._epoch_losses.append((sums["loss"] / sums["count"]).item())
            self._running.epoch = {}
            measured, _ = self._measure("validation")
            self._log("validation", measured)

    def _log_train(self) -> None:
        sums = self._running.interval
        count = sums.pop("count")
        row = {name: (value / count).item() for name, value in sums.items()}
        self._running.interval = {}
        # The trajectory ends with the last figures that meant something.
        self.failed = not math.isfinite(row["loss"])
        if not self.failed:
            self._log("train", row)

    def _log(self, split: str, values: Mapping[str, float]) -> None:
        if not all(math.isfinite(value) for value in values.values()):
            self.failed = True
            return
        epoch = math.ceil(self.step / self._steps_per_epoch)
        row = {"step": self.step, "epoch": epoch, "split": split, "accuracy": None, **values}
        self.trajectory.append({**row, "lr": self._lr, "time": self.seconds})

    @torch.no_grad()
    def _measure(self, split: str) -> tuple[dict[str, float], Tensor]:
        """Accuracy and every loss term on a whole split, and the predictions (int64 [N])."""
        self.stitch.eval()
        scores = Scores()
        sums: dict[str, Tensor] = {}
        representations = self._splits[split]
        for batch, valid in representations.chunks():
            inputs = self._forward(batch, with_logits=True)
            assert inputs.logits is not None
            scores.add(inputs.logits, batch.labels, valid)
            total, terms = self._loss(inputs.leading(valid))
            for name, value in {"": total, **{f".{n}": v for n, v in terms.items()}}.items():
                sums[name] = sums.get(name, 0) + value.double() * valid
        result = scores.result()
        losses = {f"loss{k}": (v / representations.count).item() for k, v in sums.items()}
        return {"accuracy": result.accuracy, **losses}, result.predictions

    @torch.no_grad()
    def _calibrated(self, raw: float) -> dict[str, float]:
        """The test accuracy as it is, and behind the map that restores what the loss is blind to."""
        if self._loss.calibration == "none":
            return {"accuracy_raw": raw, "accuracy_calibrated": raw}
        calibration = Calibration(self._loss.calibration)
        for x, y in self._expected_pairs():
            calibration.add(self.stitch(x), y)
        restore = calibration.fit().to(self._device)
        scores = Scores()
        for batch, valid in self._splits["test"].chunks():
            scores.add(self._suffix(restore(self.stitch(batch.sender))), batch.labels, valid)
        return {"accuracy_raw": raw, "accuracy_calibrated": scores.result().accuracy}

    @torch.no_grad()
    def _similarity(self) -> dict[str, float | None]:
        """Every measure of stitched and expected representation, on the validation images."""
        measures = SimilarityMeasures()
        for batch, valid in self._splits["validation"].chunks():
            assert batch.expected is not None
            measures.add(self.stitch(batch.sender)[:valid], batch.expected[:valid])
        found = measures.result()
        return {f"val_{k}": v if math.isfinite(v) else None for k, v in found.items()}

    def _convergence(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Whether the training got where it was going; see `docs/method.md`."""
        terms = [term.name for term in self.settings.loss.terms]
        # With augmentation the stitch is trained on other images than the closed form sees, with a
        # penalty for something else.
        same = self._augment == "none" and not self.settings.stitch.l1
        if terms == ["mse"] and same and has_optimum(self.stitch):
            return self._excess(metrics["train_loss.mse"])
        if self.total_steps == 0:
            return {"converged": None if list(self.stitch.parameters()) else True}
        return {"converged": self._has_settled("task" in terms)}

    def _has_settled(self, for_task: bool) -> bool | None:
        """Whether going on at the full learning rate promises little; None under four epochs.

        A schedule that decays to 0 flattens any curve, so what changed from the third quarter to the last
        is divided by the mean learning-rate factor of the steps that brought it.
        """
        losses, quarter = self._epoch_losses, len(self._epoch_losses) // 4
        if quarter == 0:
            return None

        def change(values: Sequence[float]) -> float:
            return fmean(values[-quarter:]) - fmean(values[-2 * quarter : -quarter])

        middle = self.total_steps - quarter * self._steps_per_epoch
        half = max(1, quarter * self._steps_per_epoch // 2)
        schedule = self.settings.training.schedule
        factor = fmean(
            schedule.factor(step, self.total_steps) for step in range(middle - half, middle + half)
        )
        # A loss that still climbs has settled no more than one that still falls.
        if abs(change(losses)) <= PLATEAU * abs(losses[0]) * factor:
            return True
        # A stitch can learn its training images by heart for ever; a matrix shows what is left on others.
        if not for_task or self._splits["validation"].count < LEAST_IMAGES:
            return False
        accuracies = [row["accuracy"] for row in self.trajectory if row["split"] == "validation"]
        return abs(change(accuracies)) <= FLAT_ACCURACY * factor

    @torch.no_grad()
    def _excess(self, loss: float) -> dict[str, Any]:
        assert isinstance(self.stitch, AffineStitch)
        least_squares = self._fit
        if least_squares is None:
            least_squares = LeastSquares(self.stitch)
            for x, y in self._expected_pairs():
                least_squares.add(x, y)
        channels = self._shapes[1][channel_axis(self._shapes[1])]
        variance = self._context.expected_variance or 1.0
        optimum = least_squares.optimum() / variance
        reached = loss / channels
        excess = reached - optimum
        return {
            "train_relative_mse": reached,
            "optimal_relative_mse": optimum,
            "excess": excess,
            "converged": excess <= EXCESS_ALLOWED * max(optimum, EXCESS_FLOOR),
        }


def no_teacher(sender: str, *, network: bool = False) -> str:
    """Why a loss can't learn from the predictions of a sender that makes none of these classes.

    Args:
        sender: what messages call it.
        network: whether it is a network, with logits for other classes.
    """
    why = "knows only the class and predicts nothing"
    if network:
        why = "has a head for other classes than the data's"
    return (
        f"{sender} {why}, so it can't be the teacher of a loss; "
        "with teacher: receiver the loss learns from the receiver's predictions"
    )


def train_stitch(
    sender: FrozenSender | nn.Module,
    receiver: FrozenNetwork | nn.Module,
    *,
    sender_layer: int,
    receiver_layer: int,
    data: Data,
    settings: TrialSettings | None = None,
    seed: int = 0,
    repeat: int = 0,
    threads: int = 1,
    device: str | torch.device = "cpu",
    augment: str = "none",
) -> StitchResult:
    """Train one stitch from start to end.

    Args:
        sender: classifies images [B, C, H, W] of `data`, or is a `ClassOnly`; it is frozen in place.
        receiver: classifies the same images; may be the sender itself.
        sender_layer: -1 (the image) or the index of one of `layers(sender)`.
        receiver_layer: likewise of the receiver.
        data: the images.
        settings: stitch, loss and training settings; the defaults of `TrialSettings` without.
        seed: decides order, augmentation and initial weights.
        repeat: further initial weights under one seed.
        threads: torch's intra-op threads; they decide the last bits of the result.
        device: where to compute.
        augment: how training images are augmented.

    Raises:
        InputError: the stitch can't join these layers, a layer doesn't exist, or the receiver is no
            network.
        FrozenError: a network changed during training.

    Example:
        >>> result = train_stitch(a, b, sender_layer=0, receiver_layer=1, data=load(...))
        >>> result.metrics["penalty"]
    """
    settings = settings or TrialSettings()
    frozen = _frozen(receiver, "receiver", device)
    if not isinstance(frozen, FrozenNetwork):
        raise InputError(f"{frozen.name} knows only the class: it can send, but not receive")
    training = StitchTraining(
        _frozen(sender, "sender", device),
        frozen,
        sender_layer,
        receiver_layer,
        make_loaders(data, settings.training.batch_size, seed=seed, augment=augment, device=device),
        settings,
        seed=seed,
        repeat=repeat,
        threads=threads,
    )
    while not training.done:
        training.run_epoch()
    return training.finish()


def _frozen(
    network: FrozenSender | nn.Module, name: str, device: str | torch.device
) -> FrozenSender:
    return network if isinstance(network, FrozenSender) else freeze(network.to(device), name)


def _expected_variance(split: _Representations) -> float:
    """Mean over channels of the expected representation's variance, over all training positions."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch, valid in split.chunks():
        assert batch.expected is not None
        values = channels_first(batch.expected[:valid].double())
        count += values.shape[1]
        total = total.to(values) + values.sum(dim=1)
        squares = squares.to(values) + values.square().sum(dim=1)
    return (squares / count - (total / count).square()).clamp(min=0).mean().item()
