"""Packs: a member's result doesn't depend on its place, its neighbors, or when it joined."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.data.images import Data
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.stitches.patch_stitch import ConvStitch
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.stitches.size_matching import Match
from stitch_sweep.storage.checkpoint_files import CheckpointError
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.pack import Pack
from stitch_sweep.training.shared_pass import SharedPass
from tests.support.training import STEPS_PER_EPOCH, finished, frozen, outcome, settings, training

WIDTH = 4
LAYER = 3


@pytest.fixture
def networks(a: nn.Module, b: nn.Module) -> tuple[FrozenNetwork, ...]:
    return frozen(a, b)


MEMBERS: dict[str, dict[str, Any]] = {
    "task": {"layer": 3, "loss": "task"},
    "another rate": {"layer": 3, "loss": "task", "optimizer": {"name": "sgd", "lr": 0.5}},
    "sum": {"layer": 2, "loss": {"task": 1.0, "mse": 0.5, "cka": 0.1}, "stitch": "conv1x1"},
    "similarity": {"layer": 4, "loss": "mse"},
    "hints": {"layer": 1, "loss": "fula"},
    "penalty": {"layer": 0, "loss": "task", "stitch": {"name": "lowrank", "rank": 2, "l1": 0.01}},
    "long": {"layer": 3, "loss": "soft_task", "epochs": 3},
    "diverging": {"layer": 3, "loss": "task", "optimizer": {"name": "sgd", "lr": 1e38}},
}
"""Settings of trainings into layer 3 that differ in everything that members may differ in."""


def member(
    name: str, networks: Sequence[FrozenNetwork], data: Data, width: int = WIDTH, repeat: int = 0
) -> StitchTraining:
    options = dict(MEMBERS[name])
    layer, loss = options.pop("layer"), options.pop("loss")
    chosen = settings(loss, **options)
    return training(
        *networks, layer, LAYER, data, chosen, repeat=repeat, threads=1, pack_width=width
    )


def gradients_in_one_graph(running: StitchTraining) -> dict[str, torch.Tensor]:
    """The gradients of a training's next step, by one call of `backward` through one graph."""
    cell = running._cell
    rows = next(running.remaining_batches())
    stitch = running.stitch.train()
    stitched = stitch(rows["sender"])
    logits = running.rest(stitched) if running.shares_rest else None
    total, _ = cell.loss(cell.stitched.complete_inputs(rows, stitched, logits))
    if l1 := running.settings.stitch.l1:
        total = total + l1 * torch.stack([w.abs().sum() for w in stitch.sparse_tensors()]).sum()
    total.backward()
    gradients = {k: p.grad.clone() for k, p in stitch.named_parameters() if p.grad is not None}
    stitch.zero_grad()
    return gradients


@pytest.mark.parametrize("name", MEMBERS)
def test_a_step_of_one_place_has_the_gradients_of_one_graph(networks, digits, name):
    """Three parts of a backward pass add the same numbers in the same order as the whole."""
    running = member(name, networks, digits, width=1)
    whole = gradients_in_one_graph(running)
    running.advance(1)
    parts = {k: p.grad for k, p in running.stitch.named_parameters() if p.grad is not None}
    assert parts.keys() == whole.keys()
    for key, gradient in whole.items():
        assert torch.equal(parts[key], gradient), key


def run(pack: Pack, waiting: list[StitchTraining]) -> dict[StitchTraining, Exception]:
    """Train all, and let the next one join wherever a place becomes free."""
    errors = {}
    while waiting or pack.members:
        while waiting and pack.free:
            pack.add(waiting.pop(0))
        errors |= pack.run_epoch()
    return errors


@pytest.mark.parametrize("threads", [1, 2])
def test_a_result_depends_on_nothing_but_the_width(networks, digits, threads):
    """Every kind of member alone, and in packs of changing places and neighbors."""
    alone = {name: outcome(finished(member(name, networks, digits))) for name in MEMBERS}
    assert alone["diverging"]["status"] == "failed"
    for names in (list(MEMBERS), list(MEMBERS)[::-1], ["long", "diverging", "task", "sum"]):
        trainings = {name: member(name, networks, digits) for name in names}
        assert not run(Pack(WIDTH), list(trainings.values()))
        for name, running in trainings.items():
            assert outcome(running.finish()) == alone[name], (names, name)


def test_a_width_is_part_of_a_training(networks, digits):
    checkpoint = member("task", networks, digits).checkpoint()
    with pytest.raises(CheckpointError, match=r"another training \(pack not the same"):
        member("task", networks, digits, width=1).restore(checkpoint)
    with pytest.raises(CheckpointError, match=r"another training \(pack not the same"):
        member("task", networks, digits).restore(
            member("task", networks, digits, width=1).checkpoint()
        )


@pytest.mark.parametrize("step", [2, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 3])
def test_a_member_goes_on_in_another_pack(networks, digits, step):
    """From a checkpoint of any step, at another place, beside others that are in other epochs."""
    whole = outcome(finished(member("long", networks, digits)))
    running = member("long", networks, digits)
    running.advance(step)
    resumed = member("long", networks, digits)
    resumed.restore(running.checkpoint())
    pack = Pack(WIDTH)
    others = [member("another rate", networks, digits, repeat=k) for k in range(2)]
    run(pack, [*others, resumed, member("hints", networks, digits)])
    assert outcome(resumed.finish()) == whole


EXTREMES = {
    "NaN": float("nan"),
    "infinite": float("inf"),
    "largest": torch.finfo(torch.float32).max,
    "denormal": 1e-42,
}


@pytest.mark.parametrize("value", EXTREMES.values(), ids=list(EXTREMES))
def test_no_value_of_a_neighbor_reaches_a_member(networks, digits, value):
    alone = outcome(finished(member("task", networks, digits)))
    neighbors = [member("another rate", networks, digits, repeat=k) for k in range(3)]
    for neighbor in neighbors:
        for parameter in neighbor.stitch.parameters():
            nn.init.constant_(parameter, value)
    running = member("task", networks, digits)
    run(Pack(WIDTH), [*neighbors[:2], running, neighbors[2]])
    assert outcome(running.finish()) == alone


def test_the_error_of_one_member_is_its_own(networks, digits):
    alone = outcome(finished(member("task", networks, digits)))
    running, faulty = (member("task", networks, digits) for _ in range(2))
    calls = []

    def fail_at_the_third_call(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("this stitch is broken")

    faulty.stitch.register_forward_pre_hook(fail_at_the_third_call)
    pack = Pack(WIDTH)
    pack.add(faulty)
    pack.add(running)
    errors = pack.run_epoch()
    assert {k: str(v) for k, v in errors.items()} == {faulty: "this stitch is broken"}
    assert faulty.step == 2
    assert pack.members == [running]
    assert pack.free == WIDTH - 1
    run(pack, [])
    assert outcome(running.finish()) == alone


def test_random_numbers_of_neighbors_are_their_own(networks, digits):
    """Stitches that draw random numbers in every step, from each generator of the process."""

    def noisy() -> StitchTraining:
        running = member("task", networks, digits)
        running.stitch.register_forward_pre_hook(lambda _, inputs: (nn.Dropout(0.3)(inputs[0]),))
        return running

    alone = outcome(finished(noisy()))
    assert alone["stitch"] != outcome(finished(member("task", networks, digits)))["stitch"]
    trainings = [noisy() for _ in range(3)]
    run(Pack(WIDTH), list(trainings))
    for running in trainings:
        assert outcome(running.finish()) == alone


@pytest.mark.parametrize("coordinates", ["raw", "whitened"])
def test_numbers_that_a_users_stitch_draws_from_numpy_are_its_own(
    networks, digits, coordinates, monkeypatch
):
    class Noisy(ConvStitch):
        def apply_map(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return super().apply_map(self._disturb(x), weight, bias)

        def _map(self, x: Tensor) -> Tensor:
            return super()._map(self._disturb(x))

        def _disturb(self, x: Tensor) -> Tensor:
            noise = torch.from_numpy(np.random.standard_normal(x.shape)).float()
            return x + 0.1 * noise if self.training else x

    monkeypatch.setattr(STITCHES, "_entries", dict(STITCHES._entries))

    @STITCHES.register("noisy")
    def noisy(sender: Shape, receiver: Shape) -> ConvStitch:
        return Noisy(sender, receiver, Match.around(sender, receiver, "average", "nearest"))

    def start() -> StitchTraining:
        chosen = settings(stitch="noisy", coordinates=coordinates)
        return training(*networks, 2, LAYER, digits, chosen, threads=1, pack_width=WIDTH)

    alone = outcome(finished(start()))
    trainings = [start() for _ in range(3)]
    run(Pack(WIDTH), list(trainings))
    for running in trainings:
        assert outcome(running.finish()) == alone


def test_members_share_the_seconds_of_a_pack(networks, digits):
    """Each second counts once, and the times of a trajectory never fall."""
    began = time.perf_counter()
    trainings = [member(name, networks, digits) for name in ("task", "sum", "similarity", "long")]
    pack = Pack(WIDTH)
    for running in trainings:
        pack.add(running)
    while pack.members:
        pack.run_epoch()
    results = [running.finish() for running in trainings]
    elapsed = time.perf_counter() - began
    assert 0.5 * elapsed < sum(result.seconds for result in results) <= elapsed
    for result in results:
        times = [row["time"] for row in result.trajectory]
        assert times == sorted(times)
        assert 0 < times[0] <= times[-1] <= result.seconds


def test_a_pack_accepts_what_fits_into_its_pass(networks, digits):
    pack = Pack(2)
    first = member("task", networks, digits, width=2)
    pack.add(first)
    a, b = networks
    others = {
        "the training itself": first,
        "another width": member("task", networks, digits, width=1),
        "another layer": training(a, b, 3, 2, digits, settings(), pack_width=2),
        "another receiver": training(a, a, 3, LAYER, digits, settings(), pack_width=2),
        "another batch size": training(
            a, b, 3, LAYER, digits, settings(batch_size=32), pack_width=2
        ),
        "no steps": training(a, b, 3, LAYER, digits, settings(epochs=0), pack_width=2),
    }
    for name, other in others.items():
        assert name == "the training itself" or not pack.fits(other), name
        with pytest.raises(ValueError, match="can't join a pack with 1 of 2 places free"):
            pack.add(other)
    second = member("hints", networks, digits, width=2)
    assert pack.fits(second)
    pack.add(second)
    with pytest.raises(ValueError, match="0 of 2 places free"):
        pack.add(member("sum", networks, digits, width=2))
    pack.remove(first)
    pack.remove(second)
    # An empty pack begins with another layer.
    pack.add(others["another layer"])
    assert pack.members == [others["another layer"]]


class _Mixing(nn.Module):
    """A faulty network, whose images see each other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(dim=0)


@pytest.mark.parametrize(
    "rest", [_Mixing(), nn.Linear(7, 1), nn.Linear(33, 3), nn.Conv2d(3, 2, 1)], ids=str
)
@pytest.mark.parametrize("rows", [1, 3, 31])
def test_a_pass_treats_all_places_alike(rest, rows):
    """Also of networks that don't treat rows alike: matrix products have special last rows."""
    rest.requires_grad_(False)
    torch.manual_seed(0)
    shape = (3, 4, 4) if isinstance(rest, nn.Conv2d) else (getattr(rest, "in_features", 5),)
    batch = torch.randn(rows, *shape)
    gradient = torch.randn(rest(batch).shape)
    results = []
    for width in (2, 5):
        for place in range(width):
            outputs = [torch.randn(rows, *shape) for _ in range(width)]
            gradients = [torch.randn(gradient.shape) for _ in range(width)]
            outputs[place], gradients[place] = batch, gradient
            shared = SharedPass(rest, width)
            logits = shared.forward(outputs)[place]
            result = width, logits, shared.backward(gradients, [None] * width)[place]
            results.append(result)
    for width, logits, output_gradient in results:
        first = next(result for result in results if result[0] == width)
        assert torch.equal(first[1], logits), width
        assert torch.equal(first[2], output_gradient), width
