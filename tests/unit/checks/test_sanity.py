"""The checks pass on what is right, and each planted fault is caught and named."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from stitch_sweep.checks.differences import first_difference, largest_difference
from stitch_sweep.checks.sanity import suite as suites
from stitch_sweep.checks.sanity.catalog import CHECKS
from stitch_sweep.checks.sanity.subject import Finding, Subject
from stitch_sweep.checks.sanity.suite import run_sanity
from stitch_sweep.cli import main as cli
from stitch_sweep.config.models import Config, TrialSettings
from stitch_sweep.config.optimization import Optimization, ScheduleConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.data.augmentation import AUGMENTATIONS
from stitch_sweep.data.images import Data, Images
from stitch_sweep.data.loader import Loader
from stitch_sweep.losses.base import CombinedLoss
from stitch_sweep.networks.evaluation import Evaluation, Scores
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.plan.cells import Cell
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.training.loop import ActivationCache, StitchTraining, _Representations
from tests.support.paths import ROOT, SHARED
from tests.support.sweeps import SMALL, run, write_config


def make_subject(
    digits: Data, modules: dict[str, nn.Module], cell: Cell, **changes: Any
) -> Subject:
    config = Config.model_validate(
        {
            "data": {"name": "digits"},
            "networks": [{"name": n, "family": "resnet1111", "width": 4} for n in modules],
            "pairs": [{"sender": cell.sender, "receiver": cell.receiver}],
            "training": {"epochs": 1, "batch_size": 32},
            **changes,
        }
    )
    stored = {name: copy.deepcopy(module) for name, module in modules.items()}
    settings = TrialSettings.model_validate(config.settings)
    return Subject(
        config, digits, modules, lambda: copy.deepcopy(stored), cell, settings, 100, little=True
    )


@pytest.fixture
def subject(digits, trained) -> Subject:
    return make_subject(digits, copy.deepcopy(trained), Cell("a", 1, "b", 2))


def check(name: str, subject: Subject) -> Finding:
    seed_everything(0, threads=1)
    return CHECKS[name](subject)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize(
    ("cell", "changes"),
    [
        (Cell("a", 1, "b", 2), {}),
        (Cell("b", 3, "b", 0), {"loss": {"mse": 1.0}}),
        (Cell("a", -1, "b", 4), {"data": {"name": "digits", "augment": "crop_flip"}}),
        (
            Cell("a", 2, "b", 2),
            {
                "stitch": {"name": "identity"},
                "training": {
                    "epochs": 1,
                    "batch_size": 1000,
                    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
                    "schedule": {"name": "linear"},
                },
            },
        ),
    ],
    ids=str,
)
def test_what_is_right_passes(name, cell, changes, digits, trained):
    finding = check(name, make_subject(digits, copy.deepcopy(trained), cell, **changes))
    assert finding.verdict in ("pass", "skip"), finding
    if finding.verdict == "skip":
        assert finding.detail
    # Float32 isn't float64; nothing else may differ at all.
    if name != "precision":
        assert not finding.difference


# Faults. Each is planted in the code that a sweep runs.

Plant = Callable[[pytest.MonkeyPatch], None]


def around(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, wrapper: Any) -> None:
    """Replace a method by `wrapper(original, self, ...)`."""
    original = getattr(owner, name)
    monkeypatch.setattr(
        owner, name, lambda self, *args, **kwargs: wrapper(original, self, *args, **kwargs)
    )


def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own guard would stop these faults first; the checks may not rest on it."""
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
    """Train mode that is gone after the step, and leaves no trace in the buffers."""
    unwatched(monkeypatch)

    def step(original: Any, self: StitchTraining, batch: Any) -> None:
        norm = receiver(self).layer3[0].bn1
        norm.momentum = 0.0
        norm.train()
        original(self, batch)
        norm.eval()

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
    def in_order(original: Any, self: Loader, chunk: int) -> Any:
        mixed = copy.copy(self)
        mixed.images = self.images.select(torch.randperm(len(self.images)))
        return original(mixed, chunk)

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
    """Loaders are right, but training takes its cached rows in the next epoch's order."""

    def batches(original: Any, self: Any, epoch: int, start: int) -> Any:
        return original(self, epoch + 1, start)

    around(monkeypatch, _Representations, "batches", batches)


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
    """The cache forgets to ask whose activations it holds, where the shapes agree."""

    def get(original: Any, self: Any, role: str, network: Any, layer: int, loader: Loader) -> Any:
        kept = self._kept.get(role)
        shape = network.shape(layer, loader.images.images.shape[1:])
        if kept is not None and kept[3].shape[1:] == shape:
            return kept[3]
        return original(self, role, network, layer, loader)

    around(monkeypatch, ActivationCache, "get", get)


def a_moment_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A BatchNorm statistic moves when the network is frozen, before anyone has looked at it."""

    def init(original: Any, self: FrozenNetwork, network: nn.Module, *args: Any) -> None:
        network.layer1[0].bn1.running_var.mul_(1.0001)
        original(self, network, *args)

    around(monkeypatch, FrozenNetwork, "__init__", init)


def frozen_in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(original: Any, self: FrozenNetwork, network: nn.Module, *args: Any) -> None:
        original(self, network.half().float(), *args)

    around(monkeypatch, FrozenNetwork, "__init__", init)


def convolutions_with_short_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What TF32 and its like do: products of rounded numbers, added up in float32."""
    around(
        monkeypatch,
        nn.Conv2d,
        "forward",
        lambda original, self, x: original(self, x.bfloat16().to(x.dtype)),
    )


def finished(**wrong: Callable[[dict[str, Any]], float]) -> Plant:
    """A trial that reports other figures than it should."""

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
    def made(original: Any, self: Any, examples: Any) -> Any:
        return original(self, examples)._replace(labels=examples.labels.roll(1))

    around(monkeypatch, _Representations, "_made", made)


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
    def step(original: Any, self: Optimization, loss: Tensor) -> float:
        rate = self._base[0] * self.schedule.factor(self.step_count, self.total_steps)
        self.schedule, kept = ScheduleConfig(name="constant", warmup=0), self.schedule
        original(self, loss)
        self.schedule = kept
        return rate

    around(monkeypatch, Optimization, "step", step)


def the_same_start_for_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stitch_sweep.training.loop.build_stitch",
        lambda *args, seed, **options: build_stitch(*args, seed=17, **options),
    )


def only_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def result(original: Any, self: Scores) -> Evaluation:
        return replace(original(self), accuracy=self._right[-1].double().mean().item())

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
        self.stitch = self.kept
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
    def step(original: Any, self: Optimization, loss: Tensor) -> float:
        rate = original(self, loss)
        if self.step_count == 1:
            self.optimizer.step()
        return rate

    around(monkeypatch, Optimization, "step", step)


def dropped_last_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(original: Any, self: Scores, logits: Tensor, labels: Tensor, valid: int) -> None:
        original(self, logits, labels, max(1, valid - 1))

    around(monkeypatch, Scores, "add", add)


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
    "an unseeded order": ("order", unseeded_order, "isn't in the order that seed 0 gives"),
    "other images for the labels": (
        "order",
        other_images_for_the_labels,
        "the images aren't those at their places",
    ),
    "an augmentation that does something else": (
        "order",
        flipped_the_wrong_way,
        "in epoch 0 (augment: crop_flip) the images aren't those at their places",
    ),
    "activations of another cell": (
        "other trials",
        activations_of_another_cell,
        "what ran before in the process changes a trial",
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
        "receiver_accuracy is said to be 0.123",
    ),
    "a loss twice as large": (
        "batch size",
        finished(**{"test_loss.task": lambda metrics: 2 * metrics["test_loss.task"]}),
        "test_loss.task is said to be",
    ),
    "a penalty the other way round": (
        "batch size",
        finished(penalty=lambda metrics: -metrics["penalty"]),
        "penalty is said to be",
    ),
    "a trajectory that stands still": (
        "batch size",
        constant_trajectory,
        "the trajectory ends with a validation accuracy of 0.5",
    ),
    "rolled labels where nothing is cached": (
        "no abstractions",
        rolled_labels_without_a_cache,
        "trained for task batch by batch, its conv.weight is another one",
    ),
    "weights of a sum of losses forgotten": (
        "no abstractions",
        forgotten_weights,
        "trained for task + mse from cached activations, its conv.weight is another one",
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
        "doesn't start as its seed says",
    ),
    "cached expected activations overwritten": (
        "activations",
        each_step(lambda t: t._splits["train"]._whole.get("expected", torch.zeros(1)).mul_(1.001)),
        "the cached train activations of b:2 (expected) were overwritten",
    ),
    "another order from the cache": (
        "order",
        another_order_from_the_cache,
        "at step 0 the stitch sees other images",
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
        "isn't the one that was trained and evaluated: its conv.weight differs",
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
        "writes into what it gets",
    ),
    "a cached activation overwritten": (
        "activations",
        each_step(lambda t: t._splits["train"]._whole["sender"].mul_(1.001)),
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
    "an optimizer that steps twice": ("no abstractions", a_step_taken_twice, "trained for task"),
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
    finding = check("loaders", subject)
    assert finding.verdict == "fail"
    assert "train images differ" in finding.detail
    assert finding.difference > 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught_and_named(fault, subject, monkeypatch):
    name, plant, said = FAULTS[fault]
    plant(monkeypatch)
    finding = check(name, subject)
    assert finding.verdict == "fail"
    assert said in finding.detail
    assert finding.difference is None or finding.difference > 0


def test_a_model_whose_conclusion_half_precision_changes_is_warned_of(digits, trained):
    """A common offset of the last layer's weights changes no decision, until it is rounded."""
    modules = copy.deepcopy(trained)
    with torch.no_grad():
        modules["b"].fc.weight.add_(256.0)
    finding = check("precision", make_subject(digits, modules, Cell("b", 4, "b", 4),
                                              stitch={"name": "identity"}))  # fmt: skip
    assert finding.verdict == "warn"
    assert "stored in 16 bits would change a conclusion: bfloat16, stored" in finding.detail


def test_a_network_that_was_stored_in_half_is_warned_of(digits, trained):
    modules = {name: copy.deepcopy(module).half().float() for name, module in trained.items()}
    finding = check("precision", make_subject(digits, modules, Cell("a", 1, "b", 2)))
    assert finding.verdict == "warn"
    assert "stored in 16 bits already: a in float16, b in float16" in finding.detail


def test_images_that_occur_twice_are_warned_of(subject):
    data = subject.whole
    test = data.test.select(torch.tensor([0, 1, 1]))
    train = Images(
        torch.cat([data.train.images, test.images[:1]]), data.train.labels.new_zeros(301)
    )
    finding = check("duplicates", replace(subject, whole=replace(data, train=train, test=test)))
    assert (finding.verdict, finding.difference) == ("warn", None)
    assert "test images that are train images too, pixel for pixel: 1" in finding.detail
    assert "test images that repeat an earlier one, pixel for pixel: 1" in finding.detail
    entries = finding.to_dict()["figures"]["duplicates"]
    assert [(entry["split"], entry["origin"]) for entry in entries] == [
        ("test", "train"),
        ("test", "test"),
    ]


class TestDifferences:
    @given(arrays("float32", (3, 4), elements=st.floats(width=32)))
    def test_a_tensor_equals_its_copy_and_nothing_else(self, values):
        one = torch.from_numpy(values)
        assert largest_difference(one, one.clone()) == 0
        other = one.clone()
        other.view(torch.int32)[1, 2] ^= 1
        assert largest_difference(one, other) > 0

    def test_it_is_the_largest_gap(self):
        one = torch.tensor([1.0, 2.0, 3.0])
        assert largest_difference(one, torch.tensor([1.5, 2.0, 1.0])) == 2.0

    @pytest.mark.parametrize(
        "other",
        [
            torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
            torch.tensor([[1.0, 2.0, 3.0]]),
            torch.tensor([1.0, math.nan, 3.0]),
            torch.tensor([1.0, math.inf, 3.0]),
        ],
    )
    def test_what_can_not_be_subtracted_is_infinitely_far(self, other):
        assert largest_difference(torch.tensor([1.0, 2.0, 3.0]), other) == math.inf

    def test_signed_zeros_differ(self):
        assert 0 < largest_difference(torch.tensor([0.0]), torch.tensor([-0.0])) < 1e-300

    def test_the_first_name_that_differs(self):
        one = {"x": torch.zeros(2), "y": torch.zeros(2), "z": torch.zeros(1)}
        assert first_difference(one, dict(one)) is None
        assert first_difference(one, {**one, "y": torch.ones(2), "z": torch.ones(1)}) == ("y", 1.0)
        assert first_difference(one, {k: one[k] for k in "xy"}) == ("z", math.inf)


class TestSuite:
    @pytest.fixture
    def config(self, tmp_path) -> Config:
        return Config.model_validate({**SMALL, "zoo": str(tmp_path / "zoo")})

    def test_all_checks_run_on_the_networks_and_on_little_ones(self, config, tmp_path):
        output = tmp_path / "sanity.json"
        found = run_sanity(config, images=100, output=output)
        assert found.passed
        written = json.loads(output.read_text())
        names = [entry["name"] for entry in written["checks"]]
        assert names == [*CHECKS, *(suites.LITTLE + name for name in CHECKS)]
        assert {entry["verdict"] for entry in written["checks"]} <= {"pass", "skip", "warn"}
        assert all("difference" in entry for entry in written["checks"])
        assert written["pair"] == "a:3,b:3"

    @pytest.mark.parametrize(
        "changes",
        [
            # The stitch comes from what is crossed; the configuration's own fits no cell.
            {
                "networks": [
                    {"name": n, "family": "resnet1111", "width": 4, "seed": k, "weights": "random_raw",
                     "layers": ["relu", "layer2", "avgpool", "flatten"]}
                    for k, n in enumerate("ab")
                ],
                "pairs": [{"sender": "a", "receiver": "b", "sender_layers": [1, 3],
                           "receiver_layers": [3]}],
                "search": {"cross": {"stitch": [{"name": "linear"}]}},
            },
            {"training": {"epochs": 0, "batch_size": 5000}, "pairs": [{"sender": "a", "receiver": "a"}]},
            {
                "data": {"name": "digits", "image_size": 12, "train_images": 30, "test_images": 20},
                "pairs": [{"sender": "a", "receiver": "b", "sender_layers": [-1],
                           "receiver_layers": [-1]}],
            },
        ],
        ids=["crossed stitch, vectors, named layers", "epochs: 0, self-pair", "into the image"],
    )  # fmt: skip
    def test_no_false_alarm(self, changes, tmp_path):
        config = Config.model_validate({**SMALL, "zoo": str(tmp_path / "zoo"), **changes})
        found = run_sanity(config, images=50, only=list(CHECKS))
        assert [f for f in found.findings if f.verdict == "fail"] == []

    def test_a_module_that_runs_twice_is_left_to_the_other_checks(self, digits, trained):
        modules = copy.deepcopy(trained)
        modules["a"].layer1[0].relu1 = modules["a"].layer1[0].relu2 = modules["a"].relu
        subject = make_subject(digits, modules, Cell("a", 0, "b", 2))
        finding = check("no abstractions", replace(subject, cell=Cell("b", 1, "b", 2)))
        assert finding.verdict == "pass"
        bench = subject.bench()
        bench.networks["a"].layer_names[0] = "relu"
        with pytest.raises(LookupError, match="runs 3 times"):
            subject.places(bench)

    def test_a_training_that_diverges_is_said_to(self, config):
        training = {"epochs": 2, "optimizer": {"name": "sgd", "lr": 1e30}}
        changes = {"loss": {"mse": 1.0}, "training": training, "search": {}}
        wild = Config.model_validate({**SMALL, "zoo": config.zoo, **changes})
        found = run_sanity(wild, images=50, only=["store and load", "precision"])
        assert [finding.verdict for finding in found.findings] == ["fail", "fail"]
        assert all("lower training.optimizer.lr" in f.detail for f in found.findings)

    def test_what_is_not_finite_is_json_all_the_same(self):
        finding = Finding("x", "y", math.inf, "fail", figures={"a": {"b": math.nan}, "c": 1.0})
        written = json.loads(json.dumps(finding.to_dict(), allow_nan=False))
        assert written["difference"] == "inf"
        assert written["figures"] == {"a": {"b": "nan"}, "c": 1.0}

    def test_on_real_images_of_cifar10(self, tmp_path):
        images = SHARED / "data" / "cifar10"
        if not images.is_dir():
            pytest.skip(f"there are no images in {images}")
        config = Config.model_validate(
            {
                **SMALL,
                "zoo": str(tmp_path / "zoo"),
                "data": {"name": "parquet", "path": str(images), "image_size": 32,
                         "train_images": 500, "test_images": 300},
                "pretraining": {"epochs": 1},
                "search": {},
            }
        )  # fmt: skip
        found = run_sanity(config, images=200, only=list(CHECKS))
        assert [f for f in found.findings if f.verdict == "fail"] == []

    @pytest.mark.long
    def test_on_the_quickstart(self, tmp_path, monkeypatch):
        config = ROOT / "experiments" / "quickstart" / "digits" / "config.yml"
        output = tmp_path / "sanity.json"
        status, text = run("sanity", config, "--set", f"zoo={tmp_path / 'zoo'}", "--output", output)
        assert status == 0, text
        assert {c["verdict"] for c in json.loads(output.read_text())["checks"]} <= {"pass", "skip"}

    def test_a_crash_is_a_finding_and_the_rest_goes_on(self, config, monkeypatch):
        def broken(original: Any, self: StitchTraining) -> Any:
            raise RuntimeError("the planted crash")

        around(monkeypatch, StitchTraining, "finish", broken)
        found = run_sanity(config, images=100, only=["little: frozen", "little: schedule", "order"])
        verdicts = {finding.name: finding.verdict for finding in found.findings}
        assert verdicts == {"order": "pass", "little: schedule": "fail", "little: frozen": "fail"}
        assert "RuntimeError: the planted crash" in found.findings[1].detail
        assert not found.passed


class TestCommand:
    @pytest.fixture
    def config(self, tmp_path) -> Path:
        return write_config(tmp_path, tmp_path / "zoo")

    @pytest.fixture
    def sanity(self, config, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
        def sanity(*arguments: object) -> tuple[int, str, str]:
            command = ["stitch-sweep", "sanity", config, "--images", 50, *arguments]
            monkeypatch.setattr(sys, "argv", [*map(str, command)])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            return (int(ended.value.code or 0), *capsys.readouterr())

        return sanity

    def test_all_is_well(self, sanity, config):
        status, out, _ = sanity("--only", "little: order", "--only", "order")
        assert status == 0
        assert out.count("pass") == 2
        written = json.loads((config.parent / "sanity.json").read_text())
        assert written["only"] == ["little: order", "order"]

    def test_a_failed_check_ends_with_1_and_is_named(self, sanity, monkeypatch):
        long_warmup(monkeypatch)
        status, out, _ = sanity("--only", "little: schedule")
        assert status == 1
        assert "is the warm-up longer than the training?" in " ".join(out.split())

    def test_one_object_on_standard_output(self, sanity):
        status, out, _ = sanity("--only", "little: identity", "--json")
        assert status == 0
        (check,) = json.loads(out)["checks"]
        assert check["name"] == "little: identity"
        assert (check["verdict"], check["difference"]) == ("pass", 0.0)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--only", "ordr"), "did you mean 'order'?"),
            (("--images", "3"), "at least 20"),
            (("--pair", "a:9,b:1"), "a has layers -1 (the image) to 4, not 9"),
            (("--output", "."), "is a folder"),
            (("--output", "/proc/x.json"), "can't be written"),
            (("--set", "loss={tsk: 1.0}"), "tsk"),
        ],
    )
    def test_what_is_wrong_is_said_before_anything_runs(self, arguments, said, sanity, tmp_path):
        status, out, err = sanity(*arguments)
        assert status == 2
        assert said in " ".join(err.split())
        assert out == ""
        assert not (tmp_path / "zoo").exists()

    def test_the_configuration_is_not_overwritten(self, sanity, config):
        before = config.read_bytes()
        assert sanity("--output", config)[0] == 2
        assert config.read_bytes() == before
