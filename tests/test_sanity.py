"""The checks pass on what is right, and each planted fault is caught and named."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sweeps import SMALL
from torch import Tensor, nn

from stitch_sweep.config import Config
from stitch_sweep.data import Data, Loader
from stitch_sweep.errors import InputError
from stitch_sweep.evaluation import Evaluation, Scores
from stitch_sweep.frozen import FrozenNetwork
from stitch_sweep.optimization import Optimization, ScheduleConfig
from stitch_sweep.sanity import run_sanity
from stitch_sweep.sanity import suite as suites
from stitch_sweep.sanity.checks import CHECKS
from stitch_sweep.sanity.differences import first_difference, largest_difference
from stitch_sweep.sanity.subject import Finding, Subject
from stitch_sweep.seeding import seed_everything
from stitch_sweep.sweep.cells import Cell
from stitch_sweep.training import ActivationCache, StitchTraining


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
    return Subject(config, digits, modules, lambda: copy.deepcopy(stored), cell, images=100)


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
    # Floating-point numbers of 16 bits do move logits; nothing else may.
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
    around(
        monkeypatch,
        Loader,
        "indices",
        lambda original, self, epoch, start=0: original(
            self, epoch + (self.batch_size == 32 and _training_is_on_the_stack()), start
        ),
    )


def _training_is_on_the_stack() -> bool:
    import inspect

    return any(frame.function == "advance" for frame in inspect.stack())


def only_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def result(original: Any, self: Scores) -> Evaluation:
        return replace(original(self), accuracy=self._right[-1].double().mean().item())

    # Chunks smaller than the split, so that there is a last one.
    monkeypatch.setattr("stitch_sweep.training.CHUNK", 64)
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


def start_from_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(original: Any, self: StitchTraining, sender: Any, receiver: Any, *a: Any, **k: Any):
        original(self, sender, receiver, *a, **k)
        with torch.no_grad():
            for parameter in self.stitch.parameters():
                parameter.add_(1e-6 * len(receiver.name))

    around(monkeypatch, StitchTraining, "__init__", init)


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
    "another order from the cache": (
        "order",
        another_order_from_the_cache,
        "at step 0 the stitch sees other images",
    ),
    "an accuracy of the last batch only": (
        "batch size",
        only_the_last_batch,
        "images are right",
    ),
    "an accuracy that leaves an image out": ("batch size", dropped_last_chunk, "images are right"),
    "a warm-up longer than the training": (
        "schedule",
        long_warmup,
        "the warm-up is longer than the training",
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
        "writes into the tensor it gets",
    ),
    "a cached activation overwritten": (
        "activations",
        each_step(lambda t: t._splits["train"]._whole["sender"].mul_(1.001)),
        "the cached train activations of a:1 were overwritten",
    ),
    "activations cached in half": (
        "activations",
        cache_in_half,
        "the cached train activations of a:1 were overwritten",
    ),
    "a start that depends on a network's name": (
        "self against copy",
        start_from_the_name,
        "the stitch's conv.weight before the first step",
    ),
    "noise in the evaluation": (
        "evaluate again",
        suffix(lambda part, x: part(x) + 1e-6 * torch.rand(1)),
        "evaluation 2 in a row gave other logits",
    ),
    "an evaluation that a training moved": (
        "evaluate again",
        each_step(lambda t: t._networks[0].network.fc.bias.add_(1e-4)),
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
        modules["b"].fc.weight.add_(64.0)
    finding = check("precision", make_subject(digits, modules, Cell("b", 4, "b", 4),
                                              stitch={"name": "identity"}))  # fmt: skip
    assert finding.verdict == "warn"
    assert "stored in 16 bits would change a conclusion: bfloat16, stored" in finding.detail


def test_a_network_that_was_stored_in_half_is_warned_of(digits, trained):
    modules = {name: copy.deepcopy(module).half().float() for name, module in trained.items()}
    finding = check("precision", make_subject(digits, modules, Cell("a", 1, "b", 2)))
    assert finding.verdict == "warn"
    assert "stored in 16 bits already: a in float16, b in float16" in finding.detail


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

    def test_a_crash_is_a_finding_and_the_rest_goes_on(self, config, monkeypatch):
        def broken(original: Any, self: StitchTraining) -> Any:
            raise RuntimeError("the planted crash")

        around(monkeypatch, StitchTraining, "finish", broken)
        found = run_sanity(config, images=100, only=["little: frozen", "little: schedule", "order"])
        verdicts = {finding.name: finding.verdict for finding in found.findings}
        assert verdicts == {"order": "pass", "little: schedule": "fail", "little: frozen": "fail"}
        assert "RuntimeError: the planted crash" in found.findings[1].detail
        assert not found.passed
