"""The training of an assembly: all parts together, or one after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from stitch_sweep.config.loss import LossConfig
from stitch_sweep.config.training import TrainingConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import LOSSES
from stitch_sweep.core.seeding import derive, seed_everything
from stitch_sweep.core.splits import SHORT_SPLITS
from stitch_sweep.data.loader import Loader
from stitch_sweep.losses.base import CombinedLoss, LossInputs
from stitch_sweep.networks.optimization import Optimization
from stitch_sweep.training.assembly import Assembly
from stitch_sweep.training.sums import WeightedSums, measure, name_losses

Order = Literal["together", "in_turn"]


@dataclass(frozen=True)
class AssemblyResult:
    """The result of training an assembly.

    Attributes:
        status: `finished`, or `failed` if the loss became NaN or infinite.
        metrics: `train_`, `val_` and `test_accuracy` and `_loss`; `receiver_accuracy`, the test accuracy
            of the network of the last part; `penalty` = receiver_accuracy - test_accuracy; `parameters`,
            the number of trained parameters.
        trajectory: a row per epoch and split: `part` (the position of the trained part, None if several
            are trained), step, epoch, split, loss, loss.<term>, accuracy, lr, time (seconds so far).
        predictions: int64 [N], the predicted class of every test image; None for a failed training.
        seconds: duration.
    """

    status: str
    metrics: dict[str, Any]
    trajectory: list[dict[str, Any]]
    predictions: Tensor | None
    seconds: float


def check_loss(loss: LossConfig) -> None:
    """Check that a loss needs only an assembly's predictions and the labels.

    Raises:
        InputError: the loss compares with a representation or a teacher. An assembly has no single
            receiver that provides them.
    """
    allowed = []
    for name in LOSSES.names():
        factory: Any = LOSSES.get(name).factory
        compares = factory.needs_expected or factory.needs_teacher or factory.needs_hints
        if factory.needs_logits and not compares:
            allowed.append(name)
    if refused := [term.name for term in loss.terms if term.name not in allowed]:
        raise InputError(
            f"loss.{', loss.'.join(refused)}: compares with the representations or predictions of a "
            "single receiver, and an assembly has no single receiver; "
            f"allowed: {', '.join(allowed)}"
        )


def check_exact(training: TrainingConfig) -> None:
    """Check that training steps run the networks as they are, as an assembly's do.

    Raises:
        InputError: they run a fast copy.
    """
    exact = {"frozen": "exact", "precision": "float32"}
    problems = [
        f"training.{key}: is {getattr(training, key)}{_name_source(training, key)}, and an assembly is "
        f"trained with its networks as they are; set training.{key}: {value}"
        for key, value in exact.items()
        if getattr(training, key) != value
    ]
    if problems:
        raise InputError(*problems)


def _name_source(training: TrainingConfig, key: str) -> str:
    return f" by training.recipe: {training.recipe}" if training.is_from_recipe(key) else ""


def train_assembly(
    assembly: Assembly,
    loaders: Mapping[str, Loader],
    loss: LossConfig,
    training: TrainingConfig,
    *,
    order: Order = "together",
    seed: int = 0,
    threads: int = 1,
) -> Iterator[AssemblyResult | tuple[int, int]]:
    """Train the trainable parts of an assembly, and evaluate it.

    Args:
        assembly: on the loaders' device.
        loaders: `train`, `validation` and `test`.
        loss: a loss of predictions; see `check_loss`.
        training: epochs, optimizer and schedule of every stage.
        order: `together`, or `in_turn`: one part after the other in their order, `training.epochs` each,
            while the other parts don't change.
        seed: seed of this process's generators.
        threads: torch's intra-op threads.

    Yields:
        (completed epochs, all epochs) after every epoch; finally the result.

    Raises:
        InputError: an assembly can't be trained with this loss, or with a fast copy of its networks.
        FrozenError: a frozen part changed.
    """
    start_time = time.perf_counter()
    seed_everything(derive(seed, "assembly"), threads)
    check_loss(loss)
    check_exact(training)
    terms = CombinedLoss.from_config(loss)
    assembly.start(loaders["train"])
    positions = list(assembly.trained)
    stages = [positions] if order == "together" and positions else [[k] for k in positions]
    trajectory: list[dict[str, Any]] = []
    done, total, failed = 0, training.epochs * len(stages), False
    for stage in stages:
        optimization = Optimization(
            [p for k in stage for p in assembly.trained[k]],
            training.optimizer,
            training.schedule,
            training.epochs * len(loaders["train"]),
            terms.default_lr(training.optimizer.name),
        )
        for _ in range(0 if failed else training.epochs):
            rows = _train_epoch(assembly, stage, loaders, terms, optimization, done)
            done += 1
            common = {"part": stage[0] if len(stage) == 1 else None, "epoch": done}
            elapsed = {"time": time.perf_counter() - start_time}
            trajectory += [{**common, **row, **elapsed} for row in rows]
            failed = not all(math.isfinite(row["loss"]) for row in rows)
            if failed:
                break
            yield done, total
    assembly.learn([])
    assembly.verify()
    metrics: dict[str, Any] = {}
    predictions = None
    if not failed:
        for split, short in SHORT_SPLITS.items():
            values, predictions = measure(_chunks(assembly, loaders[split]), terms)
            metrics |= {f"{short}_{name}": value for name, value in values.items()}
        receiver = assembly.last_network().evaluate(loaders["test"])
        metrics["receiver_accuracy"] = receiver.accuracy
        metrics["penalty"] = metrics["receiver_accuracy"] - metrics["test_accuracy"]
        metrics["parameters"] = sum(p.numel() for k in positions for p in assembly.trained[k])
    seconds = time.perf_counter() - start_time
    status = "failed" if failed else "finished"
    yield AssemblyResult(status, metrics, trajectory, predictions, seconds)


def _train_epoch(
    assembly: Assembly,
    stage: Collection[int],
    loaders: Mapping[str, Loader],
    loss: CombinedLoss,
    optimization: Optimization,
    epoch: int,
) -> list[dict[str, Any]]:
    """Train for an epoch; return its row of the trajectory, and the row of the validation images."""
    assembly.learn(stage)
    sums, lr = WeightedSums(), 0.0
    for batch in loaders["train"].batches(epoch):
        logits = assembly(batch.images)
        total, terms = loss(LossInputs(labels=batch.labels, stitched=logits, logits=logits))
        lr = optimization.step(total)
        accuracy = (logits.argmax(dim=1) == batch.labels).double().mean()
        sums.add({"loss": total, "accuracy": accuracy, **name_losses(total, terms)}, batch.valid)
    trained = sums.means()
    assembly.learn([])
    measured, _ = measure(_chunks(assembly, loaders["validation"]), loss)
    step = {"step": optimization.step_count, "lr": lr}
    return [{"split": "train", **step, **trained}, {"split": "validation", **step, **measured}]


def _chunks(assembly: Assembly, loader: Loader) -> Iterator[tuple[LossInputs, int]]:
    """Yield a split with the assembly's logits, in padded chunks."""
    for batch in loader.in_order():
        logits = assembly(batch.images)
        yield LossInputs(labels=batch.labels, stitched=logits, logits=logits), batch.valid
