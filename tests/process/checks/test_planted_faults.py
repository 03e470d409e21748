"""Each fault that is planted in the code of a sweep is caught and named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.augmentation import AUGMENTATIONS
from stitch_sweep.data.loader import Loader
from stitch_sweep.losses.base import CombinedLoss
from stitch_sweep.networks.evaluation import Evaluation, Scores
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.networks.optimization import Optimization
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.whitened import WhitenedStitch
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.representations import ActivationCache, SplitRepresentations
from stitch_sweep.training.selection import Selection
from stitch_sweep.training.shared_pass import SharedPass
from tests.support.subjects import around, run_check

Plant = Callable[[pytest.MonkeyPatch], None]


def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the verification of frozen networks, which would stop these faults first."""
    monkeypatch.setattr(FrozenNetwork, "verify", lambda self: None)


def each_step(change: Callable[[StitchTraining], object]) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        unwatched(monkeypatch)

        def step(original: Any, self: StitchTraining, batch: Any) -> None:
            original(self, batch)
            change(self)

        around(monkeypatch, StitchTraining, "_train_step", step)

    return plant


def receiver(training: StitchTraining) -> Any:
    return training._networks[1].network


def only_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set train mode only during the step, without a trace in the buffers."""
    unwatched(monkeypatch)

    def step(original: Any, self: StitchTraining, batch: Any) -> None:
        norm = receiver(self).layer3[0].bn1
        norm.momentum = 0.0
        norm.train()
        original(self, batch)
        norm.eval()

    around(monkeypatch, StitchTraining, "_train_step", step)


def whitening_not_folded_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store the weights of the whitened coordinates as those of the ordinary stitch."""

    def fold(self: WhitenedStitch) -> nn.Module:
        stitch = self._stitch[0]
        stitch.set_map(self.weight.transpose(2, 3).flatten(1), self.bias)
        return stitch

    monkeypatch.setattr(WhitenedStitch, "fold", fold)


def mean_not_folded_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store the right weights with the bias of centered channels."""

    def fold(self: WhitenedStitch) -> nn.Module:
        stitch = self._stitch[0]
        stitch.set_map(self.applied_map()[0], self.bias)
        return stitch

    monkeypatch.setattr(WhitenedStitch, "fold", fold)


def the_last_stitch_instead_of_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the best step, but don't return to it; the last step ruins the stitch."""

    def step(original: Any, self: StitchTraining, batch: Any) -> None:
        if self.step == self.total_steps - 1:
            next(self.stitch.parameters()).data.neg_()
        original(self, batch)

    monkeypatch.setattr(Selection, "load_best", lambda self, stitch: self.step)
    around(monkeypatch, StitchTraining, "_train_step", step)


def suffix(change: Callable[[nn.Module, Tensor], Tensor]) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        class Changed(nn.Module):
            def __init__(self, part: nn.Module) -> None:
                super().__init__()
                self.part = part

            def forward(self, x: Tensor) -> Tensor:
                return change(self.part, x)

        around(
            monkeypatch,
            FrozenNetwork,
            "suffix",
            lambda original, self, layer: Changed(original(self, layer)).eval(),
        )

    return plant


def prefix_in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    class Halved(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).half().float()

    around(
        monkeypatch,
        FrozenNetwork,
        "prefix",
        lambda original, self, layer: Halved(original(self, layer)).eval(),
    )


def cache_in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(original: Any, self: ActivationCache, *args: Any) -> Tensor | None:
        whole = original(self, *args)
        return None if whole is None else whole.copy_(whole.half())

    around(monkeypatch, ActivationCache, "get", get)


def stitch_in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(original: Any, self: StitchTraining) -> Any:
        self.stitch.half().float()
        return original(self)

    around(monkeypatch, StitchTraining, "finish", finish)


def shuffled_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_order(original: Any, self: Loader, *args: Any) -> Any:
        mixed = copy.copy(self)
        mixed.images = self.images.select(torch.randperm(len(self.images)))
        return original(mixed, *args)

    around(monkeypatch, Loader, "in_order", in_order)


def unseeded_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Loader,
        "indices",
        lambda self, epoch, start=0: iter(
            torch.randperm(len(self.images))[start * self.batch_size :].split(self.batch_size)
        ),
    )


def another_order_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the cached rows in the next epoch's order; the loaders are correct."""

    def batches(original: Any, self: Any, epoch: int, start: int) -> Any:
        return original(self, epoch + 1, start)

    around(monkeypatch, SplitRepresentations, "batches", batches)


def other_images_for_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    around(
        monkeypatch,
        Loader,
        "read",
        lambda original, self, groups: original(self, [group.flip(0) for group in groups]),
    )


def flipped_the_wrong_way(monkeypatch: pytest.MonkeyPatch) -> None:
    crop = AUGMENTATIONS["crop_flip"]
    wrong = replace(crop, apply=lambda images, draws: crop.apply(images, draws).flip(-1))
    monkeypatch.setitem(AUGMENTATIONS, "crop_flip", wrong)


def activations_of_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return what the cache gave last for this role and split, if only the shapes agree."""

    def get(original: Any, self: Any, role: str, network: Any, layer: int, loader: Loader) -> Any:
        given = vars(self).setdefault("given_before", {})
        earlier = given.get((role, loader.split))
        shape = network.shape(layer, loader.images.images.shape[1:])
        if earlier is None or earlier.shape[1:] != shape:
            given[role, loader.split] = original(self, role, network, layer, loader)
        return given[role, loader.split]

    around(monkeypatch, ActivationCache, "get", get)


def a_moment_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change a BatchNorm statistic while the network is frozen, before its first verification."""

    def init(original: Any, self: FrozenNetwork, network: nn.Module, *args: Any) -> None:
        network.layer1[0].bn1.running_var.mul_(1.0001)
        original(self, network, *args)

    around(monkeypatch, FrozenNetwork, "__init__", init)


def frozen_in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(original: Any, self: FrozenNetwork, network: nn.Module, *args: Any) -> None:
        original(self, network.half().float(), *args)

    around(monkeypatch, FrozenNetwork, "__init__", init)


def convolutions_with_short_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round the inputs of convolutions, as TF32 does; the sums stay in float32."""
    around(
        monkeypatch,
        nn.Conv2d,
        "forward",
        lambda original, self, x: original(self, x.bfloat16().to(x.dtype)),
    )


def finished(**wrong: Callable[[dict[str, Any]], float]) -> Plant:
    """Make trials report wrong figures."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        def finish(original: Any, self: StitchTraining) -> Any:
            result = original(self)
            changed = {name: change(result.metrics) for name, change in wrong.items()}
            return replace(result, metrics={**result.metrics, **changed})

        around(monkeypatch, StitchTraining, "finish", finish)

    return plant


def constant_trajectory(monkeypatch: pytest.MonkeyPatch) -> None:
    def log(original: Any, self: StitchTraining, split: str, values: Any) -> None:
        original(self, split, {**values, "accuracy": 0.5})

    around(monkeypatch, StitchTraining, "_log", log)


def rolled_labels_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(original: Any, self: Any, batch: Any, sources: Any) -> Any:
        return {**original(self, batch, sources), "labels": batch.labels.roll(1)}

    around(monkeypatch, SplitRepresentations, "_compute", made)


def forgotten_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(original: Any, self: CombinedLoss, inputs: Any) -> Any:
        _, terms = original(self, inputs)
        return sum(terms.values()), terms

    around(monkeypatch, CombinedLoss, "__call__", call)


def small_default_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    around(
        monkeypatch,
        CombinedLoss,
        "default_lr",
        lambda original, self, optimizer: original(self, optimizer) / 100,
    )


def constant_rate_behind_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(original: Any, self: Optimization) -> float:
        rate = self._base[0] * self.schedule.factor(self.step_count, self.total_steps)
        self.schedule, saved = ScheduleConfig(name="constant", warmup=0), self.schedule
        original(self)
        self.schedule = saved
        return rate

    around(monkeypatch, Optimization, "apply_gradients", apply)


def the_same_start_for_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stitch_sweep.training.cell.build_stitch",
        lambda *args, seed, **options: build_stitch(*args, seed=17, **options),
    )


def only_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def result(original: Any, self: Scores) -> Evaluation:
        return replace(original(self), accuracy=self._correct[-1].double().mean().item())

    around(monkeypatch, Scores, "result", result)


def long_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ScheduleConfig, "factor", lambda self, step, total: min(1.0, (step + 1) / (2.5 * total))
    )


def saved_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(original: Any, self: StitchTraining, batch: Any) -> None:
        if self.step == self.total_steps - 1:
            self.kept = copy.deepcopy(self.stitch)
        original(self, batch)

    def pack(original: Any, self: StitchTraining, about: Any) -> bytes:
        self._cell.use(self.kept)
        return original(self, about)

    around(monkeypatch, StitchTraining, "_train_step", step)
    around(monkeypatch, StitchTraining, "pack_stitch", pack)


def start_from_the_name(side: int) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        def init(original: Any, self: StitchTraining, *args: Any, **options: Any) -> None:
            original(self, *args, **options)
            with torch.no_grad():
                for parameter in self.stitch.parameters():
                    parameter.add_(1e-6 * len(args[side].name))

        around(monkeypatch, StitchTraining, "__init__", init)

    return plant


def a_step_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(original: Any, self: Optimization) -> float:
        rate = original(self)
        if self.step_count == 1:
            self.optimizer.step()
        return rate

    around(monkeypatch, Optimization, "apply_gradients", apply)


def dropped_last_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(original: Any, self: Scores, logits: Tensor, labels: Tensor, valid: int) -> None:
        original(self, logits, labels, max(1, valid - 1))

    around(monkeypatch, Scores, "add", add)


def neighbors_part(monkeypatch: pytest.MonkeyPatch) -> None:
    around(
        monkeypatch,
        SharedPass,
        "_split",
        lambda original, self, whole, like: original(
            self, whole.roll(len(whole) // self.width, 0), like
        ),
    )


def repeated_in_free_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the first member into free places, and add what arrives there to its gradient."""

    def backward(original: Any, self: SharedPass, gradients: Any, direct: Any) -> Any:
        filled = next(g for g in gradients if g is not None)
        results = original(self, [filled if g is None else g for g in gradients], direct)
        extra = sum(r for r, g in zip(results, gradients, strict=True) if g is None)
        return [None if g is None else r + extra for r, g in zip(results, gradients, strict=True)]

    around(monkeypatch, SharedPass, "backward", backward)


def mixed_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stitch_sweep.training.shared_pass.run_places",
        lambda rest, inputs, width: rest(inputs + 1e-3 * inputs.mean(dim=0)),
    )


FAULTS: dict[str, tuple[str, Plant, str]] = {
    "a layer left in train mode": (
        "frozen",
        each_step(lambda t: receiver(t).layer2[0].bn1.train()),
        "network 'b': layer2.0.bn1 is in train mode after step 1",
    ),
    "a layer in train mode only while it runs": (
        "frozen",
        only_while_it_runs,
        "network 'b': layer3.0.bn1 ran in train mode after step 1",
    ),
    "a buffer updated": (
        "frozen",
        each_step(lambda t: receiver(t).layer3[0].bn2.running_mean.add_(1e-7)),
        "network 'b': layer3.0.bn2.running_mean changed after step 1",
    ),
    "a weight that learns": (
        "frozen",
        each_step(lambda t: receiver(t).layer1[0].conv1.weight.requires_grad_()),
        "network 'b': layer1.0.conv1.weight takes gradients after step 1",
    ),
    "a shuffled evaluation": ("order", shuffled_evaluation, "evaluation shuffles the test images"),
    "an unseeded order": (
        "order",
        unseeded_order,
        "the training order differs from that of seed 0",
    ),
    "other images for the labels": (
        "order",
        other_images_for_the_labels,
        "the images differ from the augmented images at their indices",
    ),
    "an augmentation that does something else": (
        "order",
        flipped_the_wrong_way,
        "in epoch 0 (augment: crop_flip) the images differ from the augmented images at their indices",
    ),
    "activations of another cell": (
        "other trials",
        activations_of_another_cell,
        "earlier trials in the same process change a trial",
    ),
    "a statistic that moves when the network is frozen": (
        "frozen",
        a_moment_of_training,
        "layer1.0.bn1.running_var changed before the training",
    ),
    "a buffer of the sender updated": (
        "frozen",
        each_step(lambda t: t._networks[0].network.layer1[0].bn1.running_var.mul_(1.01)),
        "network 'a': layer1.0.bn1.running_var changed after step 1",
    ),
    "networks frozen in half": (
        "precision",
        frozen_in_half,
        "network 'a': conv1.weight went through float16",
    ),
    "convolutions of short numbers": (
        "precision",
        convolutions_with_short_inputs,
        "they aren't computed in float32",
    ),
    "an own accuracy that isn't the network's": (
        "batch size",
        finished(receiver_accuracy=lambda metrics: 0.123),
        "receiver_accuracy is reported as 0.123",
    ),
    "a loss twice as large": (
        "batch size",
        finished(**{"test_loss.task": lambda metrics: 2 * metrics["test_loss.task"]}),
        "test_loss.task is reported as",
    ),
    "a penalty the other way round": (
        "batch size",
        finished(penalty=lambda metrics: -metrics["penalty"]),
        "penalty is reported as",
    ),
    "a trajectory that stands still": (
        "batch size",
        constant_trajectory,
        "the trajectory ends with a validation accuracy of 0.5",
    ),
    "rolled labels where nothing is cached": (
        "no abstractions",
        rolled_labels_without_a_cache,
        "trained for task batch by batch, the trained conv.weight differs",
    ),
    "weights of a sum of losses forgotten": (
        "no abstractions",
        forgotten_weights,
        "trained for task + mse from cached activations, the trained conv.weight differs",
    ),
    "a default learning rate that is lost": (
        "schedule",
        small_default_rate,
        "at step 0 the learning rate used is",
    ),
    "a learning rate that isn't the one logged": (
        "schedule",
        constant_rate_behind_the_log,
        "the learning rate used is",
    ),
    "one start for all seeds": (
        "no abstractions",
        the_same_start_for_every_seed,
        "does not follow from the seed",
    ),
    "cached expected activations overwritten": (
        "activations",
        each_step(
            lambda t: t._cell.splits["train"]._whole.get("expected", torch.zeros(1)).mul_(1.001)
        ),
        "the cached train activations of b:2 (expected) were overwritten",
    ),
    "another order from the cache": (
        "order",
        another_order_from_the_cache,
        "at step 0 the stitch receives other images",
    ),
    "an accuracy of the last batch only": (
        "batch size",
        only_the_last_batch,
        "over all images",
    ),
    "an accuracy that leaves an image out": ("batch size", dropped_last_chunk, "over all images"),
    "a warm-up longer than the training": (
        "schedule",
        long_warmup,
        "is the warm-up longer than the training?",
    ),
    "a stitch saved before its last step": (
        "store and load",
        saved_too_early,
        "is not the trained and evaluated one: its conv.weight differs",
    ),
    "a representation cast to half": (
        "precision",
        prefix_in_half,
        "the sender's representation went through float16",
    ),
    "logits cast to bfloat16": (
        "precision",
        suffix(lambda part, x: part(x).bfloat16().float()),
        "the logits went through bfloat16",
    ),
    "logits left in half": (
        "precision",
        suffix(lambda part, x: part(x).half()),
        "the logits: float16, not float32",
    ),
    "a stitch stored in half": (
        "precision",
        stitch_in_half,
        "the stitch's conv.weight went through float16",
    ),
    "a half cast within the receiver": (
        "identity",
        suffix(lambda part, x: part(x.half().float())),
        "a cut after layer",
    ),
    "an activation overwritten in place": (
        "activations",
        suffix(lambda part, x: part(x.mul_(1.5))),
        "overwrites its input",
    ),
    "a cached activation overwritten": (
        "activations",
        each_step(lambda t: t._cell.splits["train"]._whole["sender"].mul_(1.001)),
        "the cached train activations of a:1 (sender) were overwritten",
    ),
    "activations cached in half": (
        "activations",
        cache_in_half,
        "the cached train activations of a:1 (sender) were overwritten",
    ),
    "a start that depends on the sender's name": (
        "self against copy",
        start_from_the_name(0),
        "the stitch's conv.weight before the first step",
    ),
    "a start that depends on the receiver's name": (
        "self against copy",
        start_from_the_name(1),
        "the stitch's conv.weight before the first step",
    ),
    "noise in the evaluation": (
        "evaluate again",
        suffix(lambda part, x: part(x) + 1e-6 * torch.rand(1)),
        "evaluation 2 in a row gave other logits",
    ),
    "an evaluation that a training moved": (
        "evaluate again",
        each_step(lambda t: receiver(t).fc.bias.add_(1e-4)),
        "after an unrelated training",
    ),
    "logits of the neighbor": ("pack", neighbors_part, "neighbors in a pack change a training"),
    "a neighbor's values in free places": (
        "pack",
        repeated_in_free_places,
        "neighbors in a pack change a training",
    ),
    "a pass that mixes its images": ("pack", mixed_images, "neighbors in a pack change a training"),
    "an optimizer that steps twice": ("no abstractions", a_step_taken_twice, "trained for task"),
    "whitening that is not folded back": (
        "store and load",
        whitening_not_folded_back,
        "in whitened coordinates, last stitch kept: validated with an accuracy of",
    ),
    "a mean that is not folded back": (
        "store and load",
        mean_not_folded_back,
        "in whitened coordinates, last stitch kept: validated with an accuracy of",
    ),
    "the last stitch instead of the best": (
        "store and load",
        the_last_stitch_instead_of_the_best,
        "best stitch kept: the result isn't the stitch that was validated",
    ),
}


def test_images_that_ffcv_delivers_otherwise_are_caught_and_named(subject, monkeypatch):
    try:
        from stitch_sweep.data.ffcv_loader import FfcvLoader
    except InputError as error:
        pytest.skip(str(error))
    around(
        monkeypatch,
        FfcvLoader,
        "read",
        lambda original, self, groups: (x ^ (x == 255) for x in original(self, groups)),
    )
    finding = run_check("loaders", subject)
    assert finding.verdict == "fail"
    assert "train images differ" in finding.detail
    assert finding.difference > 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught_and_named(fault, subject, monkeypatch):
    name, plant, said = FAULTS[fault]
    plant(monkeypatch)
    finding = run_check(name, subject)
    assert finding.verdict == "fail"
    assert said in finding.detail
    assert finding.difference is None or finding.difference > 0
