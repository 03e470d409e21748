"""The training of one stitch: results, cache, convergence, failure, frozen networks, trajectory."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import math
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.evaluation import evaluate
from stitch_sweep.networks.families.building import build
from stitch_sweep.networks.frozen import FrozenError, FrozenNetwork
from stitch_sweep.stitches.base import MAX_INPUTS
from stitch_sweep.training.convergence import EXCESS_ALLOWED
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.representations import ActivationCache
from tests.support.digits import TINY
from tests.support.train_stitch import train_stitch
from tests.support.training import STEPS_PER_EPOCH, finished, frozen, outcome, settings, training

ALL = range(5)


# The identity, and the cache


@pytest.mark.parametrize("layer", [-1, *ALL])
@pytest.mark.parametrize("stitch", ["identity", {"name": "paper", "start": "identity"}], ids=str)
def test_the_untrained_identity_is_the_network_itself(a, digits, layer, stitch):
    chosen = settings(stitch=stitch, epochs=0)
    result = train_stitch(
        a, a, sender_layer=layer, receiver_layer=layer, data=digits, settings=chosen
    )
    own = evaluate(a, make_loaders(digits, 64, seed=0)["test"])
    assert result.metrics["test_accuracy"] == own.accuracy
    assert result.metrics["test_loss"] == pytest.approx(own.loss, rel=1e-6)
    assert torch.equal(result.predictions, own.predictions)
    assert result.metrics["penalty"] == 0
    assert [(row["step"], row["split"]) for row in result.trajectory] == [(0, "validation")]


def written_out(
    a: nn.Module, b: nn.Module, data: Data, loss: str, epochs: int, whole: bool
) -> nn.Conv2d:
    """The training of (a, 1) to (b, 2) in plain PyTorch, without any class of Stitch Sweep.

    Args:
        whole: whether representations are computed once, in padded chunks of 256, or batch by batch.
    """

    def seed_of(*parts: Any) -> int:
        digest = hashlib.sha256(json.dumps(parts).encode()).digest()
        return int.from_bytes(digest[:8], "big") // 2

    def upto(network: Any, layer: int, x: torch.Tensor) -> torch.Tensor:
        x = network.relu(network.bn1(network.conv1(x)))
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4)[:layer]:
            x = stage(x)
        return x

    def chunks(network: Any, layer: int) -> torch.Tensor:
        found = []
        for first in range(0, len(images), 256):
            at = torch.arange(first, first + 256) % len(images)
            found.append(upto(network, layer, images[at]))
        return torch.cat(found)[: len(images)]

    torch.set_num_threads(1)
    images = data.train.images.float() / 255
    images = (images - data.mean[:, None, None]) / data.std[:, None, None]
    labels = data.train.labels
    with torch.no_grad():
        kept_a, kept_b = chunks(a, 1), chunks(b, 2)
    channels = kept_b.transpose(0, 1).flatten(1).double()
    variance = channels.var(dim=1, unbiased=False).mean().item()

    shapes = list(kept_a.shape[1:]), list(kept_b.shape[1:])
    torch.manual_seed(seed_of(0, 0, "stitch", "paper", *shapes))
    stitch = nn.Conv2d(shapes[0][0], shapes[1][0], 2, stride=2)
    base = {"task": 0.03, "mse": 0.1}[loss]
    optimizer = torch.optim.Adam(stitch.parameters(), lr=base)
    steps, step = epochs * STEPS_PER_EPOCH, 0
    warmup = round(0.1 * steps)
    for epoch in range(epochs):
        order = torch.randperm(
            len(images), generator=torch.Generator().manual_seed(seed_of(0, "order", epoch))
        )
        for at in order.split(64):
            with torch.no_grad():
                x = kept_a[at] if whole else upto(a, 1, images[at])
                e = kept_b[at] if whole else upto(b, 2, images[at])
            y = stitch(x)
            if loss == "task":
                logits = b.fc(torch.flatten(b.avgpool(b.layer4(b.layer3(y))), 1))
                value = functional.cross_entropy(logits, labels[at])
            else:
                value = (y - e).square().mean() * (e.shape[1] / variance)
            done = (step - warmup) / (steps - warmup)
            factor = (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]["lr"] = base * factor
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            step += 1
    return stitch


@pytest.mark.parametrize("loss", ["task", "mse"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_plain_loop_arrives_at_the_same_stitch_bit_for_bit(a, b, digits, loss, whole):
    by_hand = written_out(a, b, digits, loss, epochs=4, whole=whole)
    chosen = settings(loss, epochs=4)
    cache = ActivationCache(2**30 if whole else 0)
    result = finished(training(a, b, 1, 2, digits, chosen, cache=cache))
    assert torch.equal(result.stitch.conv.weight, by_hand.weight)
    assert torch.equal(result.stitch.conv.bias, by_hand.bias)


@pytest.mark.parametrize("loss", ["task", "mse"])
def test_what_the_cache_holds_changes_at_most_the_last_bits(a, b, digits, loss):
    results = [
        finished(
            training(a, b, 1, 2, digits, settings(loss, epochs=1), cache=ActivationCache(limit))
        )
        for limit in (0, 2**30)
    ]
    vectors = [nn.utils.parameters_to_vector(r.stitch.parameters()) for r in results]
    torch.testing.assert_close(*vectors, rtol=1e-3, atol=1e-4)


def test_a_cache_gives_what_was_asked_for_whatever_it_held_before(a, b, digits):
    cache = ActivationCache(2**30)
    loaders = make_loaders(digits, 64, seed=0)
    one, other = frozen(a, b)
    named = FrozenNetwork(copy.deepcopy(a), layer_names=["layer3", "layer4"])  # the same weights
    for network, layer, split in [
        (one, 0, "train"),
        (one, 0, "train"),
        (one, 1, "train"),
        (named, 1, "train"),
        (other, 1, "train"),
        (other, 1, "test"),
        (other, -1, "test"),
        (one, 0, "train"),
    ]:
        found = cache.get("sender", network, layer, loaders[split])
        alone = ActivationCache(2**30).get("sender", network, layer, loaders[split])
        assert torch.equal(found, alone)
    assert cache.get("sender", one, 0, loaders["train"]) is cache.get(
        "sender", one, 0, loaders["train"]
    )


@pytest.mark.parametrize("same_bits", [True, False])
def test_a_later_layer_continues_from_an_earlier_one_if_its_bits_are_the_same(
    a, digits, monkeypatch, same_bits
):
    (network,) = frozen(a)
    loader = make_loaders(digits, 64, seed=0)["train"]
    alone = ActivationCache(2**30).get("sender", network, 3, loader)
    represent, part, passes = network.represent, network.part, []

    def count(layer, batch):
        passes.append(layer)
        return represent(layer, batch)

    def change(start, end):
        rest = part(start, end)
        return rest if same_bits or start != 1 else lambda x: rest(x) * (1 + 2**-20)

    cache = ActivationCache(2**30)
    cache.get("sender", network, 1, loader)
    monkeypatch.setattr(network, "represent", count)
    monkeypatch.setattr(network, "part", change)
    assert torch.equal(cache.get("sender", network, 3, loader), alone)
    chunks = len(list(loader.in_order()))
    assert passes == [3] * (1 if same_bits else 1 + chunks)


def test_the_cache_decides_by_size_alone(a, digits):
    (one,) = frozen(a)
    loader = make_loaders(digits, 64, seed=0)["train"]
    size = 4 * len(digits.train) * 4 * 16 * 16
    assert ActivationCache(size).get("sender", one, 0, loader) is not None
    assert ActivationCache(size - 1).get("sender", one, 0, loader) is None


def test_a_waiting_training_keeps_no_representation_and_continues_with_the_same_bits(a, b, digits):
    networks, cache = frozen(a, b), ActivationCache(2**30)
    alone = outcome(finished(training(*networks, 1, 2, digits, settings({"task": 1, "mse": 1}))))
    waiting = training(*networks, 1, 2, digits, settings({"task": 1, "mse": 1}), cache=cache)
    waiting.run_epoch()
    kept = [weakref.ref(whole) for *_, whole in cache._kept.values()]
    assert len(kept) == 6  # the sender's and the receiver's, of three splits
    other = training(*networks[::-1], 3, 0, digits, settings("mse"), cache=cache)
    gc.collect()
    assert any(reference() is not None for reference in kept)
    waiting.release_representations()
    gc.collect()
    assert not any(reference() is not None for reference in kept)
    finished(other)
    assert outcome(finished(waiting)) == alone


def test_trainings_that_share_a_cache_are_as_if_alone(a, b, digits):
    cells = [(0, 0), (0, 1), (2, 1), (0, 0)]
    one, other = frozen(a, b)
    cache = ActivationCache(2**30)
    for i, j in cells:
        shared = finished(
            training(one, other, i, j, digits, settings("mse", epochs=1), cache=cache)
        )
        alone = finished(training(one, other, i, j, digits, settings("mse", epochs=1)))
        assert outcome(shared) == outcome(alone)


class InPlace(nn.Module):
    """A network whose suffix, cut before an in-place activation, overwrites its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, stride=4)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 1)
        self.act2 = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act2(self.conv2(self.act1(self.conv1(x))))
        return self.fc(torch.flatten(x, 1))


@pytest.mark.parametrize("limit", [0, 2**30])
def test_in_place_activations_overwrite_neither_the_cache_nor_what_a_loss_sees(digits, limit):
    torch.manual_seed(0)
    network = FrozenNetwork(InPlace(), layer_names=["conv1", "conv2"])
    cache = ActivationCache(limit)
    chosen = settings({"task": 1.0, "mse": 1.0}, stitch="identity")
    result = finished(training(network, network, 1, 1, digits, chosen, cache=cache))
    assert result.metrics["test_loss.mse"] == 0
    assert result.metrics["penalty"] == 0
    if limit:
        fresh = ActivationCache(limit)
        loader = make_loaders(digits, 64, seed=0)["train"]
        assert torch.equal(
            cache.get("sender", network, 1, loader), fresh.get("x", network, 1, loader)
        )


# Convergence


def relative_optimum(a: nn.Module, b: nn.Module, data: Data) -> float:
    """numpy's least squares for (a, 3) to (b, 3), in units of the expected variance."""
    images = make_loaders(data, 64, seed=0)["train"]
    everything = next(images.in_order(len(images.images))).images
    with torch.no_grad():
        x, y = (FrozenNetwork(n).prefix(3)(everything).double() for n in (a, b))
    x, y = (t.permute(0, 2, 3, 1).flatten(0, 2) for t in (x, y))
    rows = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    residual = rows @ torch.linalg.lstsq(rows, y, driver="gelsd").solution - y
    return (residual.square().mean() / y.var(dim=0, unbiased=False).mean()).item()


def test_excess_is_the_distance_to_least_squares(a, b, digits):
    chosen = settings("mse", epochs=2)
    metrics = finished(training(a, b, 3, 3, digits, chosen)).metrics
    best = relative_optimum(a, b, digits)
    assert metrics["optimal_relative_mse"] == pytest.approx(best, rel=1e-5)
    channels = 16
    assert metrics["train_relative_mse"] == pytest.approx(metrics["train_loss.mse"] / channels)
    assert metrics["excess"] == pytest.approx(metrics["train_relative_mse"] - best, rel=1e-4)
    assert metrics["excess"] > 0
    assert metrics["converged"] == (metrics["excess"] <= EXCESS_ALLOWED * best)


def test_a_long_training_to_itself_by_mse_has_converged(a, digits):
    result = finished(training(a, a, 3, 3, digits, settings("mse", epochs=40)))
    assert result.metrics["converged"] is True
    assert result.metrics["optimal_relative_mse"] == pytest.approx(0, abs=1e-9)


def test_a_stitch_with_too_long_rows_has_no_closed_form(a, digits, monkeypatch):
    assert MAX_INPUTS > 8
    monkeypatch.setattr("stitch_sweep.stitches.least_squares.MAX_INPUTS", 8)
    metrics = finished(training(a, a, 3, 3, digits, settings("mse", epochs=1))).metrics
    assert "excess" not in metrics
    assert metrics["converged"] is None


# Failure


def test_a_diverging_training_fails_with_its_last_good_rows(a, b, digits):
    chosen = settings("mse", epochs=4, log_every=1, optimizer={"name": "sgd", "lr": 1e6})
    running = training(a, b, 1, 2, digits, chosen)
    result = finished(running)
    assert (result.status, result.metrics, result.predictions) == ("failed", {}, None)
    assert running.step < running.total_steps
    assert result.trajectory
    for row in result.trajectory:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, int | float))
    again = finished(training(a, b, 1, 2, digits, chosen))
    assert outcome(again) == outcome(result)


def test_an_unfinished_training_has_no_result(a, digits):
    running = training(a, a, 1, 1, digits, settings())
    running.advance(1)
    with pytest.raises(RuntimeError, match="only 1 of 10 steps"):
        running.finish()


# Frozen means frozen


def test_networks_are_never_in_train_mode_and_never_change(a, b, digits):
    seen = []
    for network in (a, b):
        for part in network.modules():
            part.register_forward_hook(lambda m, *_: seen.append(m.training))
    before = [copy.deepcopy(n.state_dict()) for n in (a, b)]
    result = finished(training(a, b, 1, 2, digits, settings({"task": 1.0, "mse": 1.0})))
    assert result.status == "finished"
    assert seen
    assert not any(seen)
    for network, state in zip((a, b), before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())


def train_mode(network: nn.Module) -> None:
    network.layer4[0].bn1.train()


def updated_buffer(network: nn.Module) -> None:
    network.layer4[0].bn1.running_mean[0] += 1e-3


def trainable(network: nn.Module) -> None:
    network.fc.weight.requires_grad_(True)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (train_mode, "layer4.0.bn1 is in train mode"),
        (updated_buffer, "layer4.0.bn1.running_mean changed"),
        (trainable, "fc.weight takes gradients"),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_a_network_that_does_not_stay_frozen_stops_the_trial(a, b, digits, fault, named, which):
    networks = frozen(a, b)
    running = training(*networks, 1, 2, digits, settings(epochs=1))
    running.advance(2)
    fault(networks[which].network)
    running.run_epoch()
    with pytest.raises(FrozenError, match=f"network {which}: .*{named}"):
        running.finish()
    with pytest.raises(FrozenError, match=f"network {which}: .*{named}"):
        training(*networks, 1, 2, digits, settings(epochs=1))


# Trajectory


@pytest.mark.parametrize(
    ("loss", "terms"),
    [("task", {"task"}), ("mse", {"mse"}), ({"task": 1.0, "mse": 0.5}, {"task", "mse"})],
    ids=["task", "mse", "both"],
)
def test_a_trajectory_has_the_rows_and_columns_that_are_promised(a, b, digits, loss, terms):
    chosen = settings(
        loss,
        epochs=3,
        log_every=2,
        optimizer={"name": "sgd", "lr": 0.01},
        schedule={"name": "linear", "warmup": 0},
    )
    running = training(a, b, 1, 2, digits, chosen)
    result = finished(running)
    rows = result.trajectory
    expected = []
    for step in range(1, 3 * STEPS_PER_EPOCH + 1):
        if step % 2 == 0 or step % STEPS_PER_EPOCH == 0:
            expected.append((step, "train"))
        if step % STEPS_PER_EPOCH == 0:
            expected.append((step, "validation"))
    assert [(row["step"], row["split"]) for row in rows] == expected
    columns = {"step", "epoch", "split", "loss", "accuracy", "lr", "time"}
    for row in rows:
        assert row.keys() == columns | {f"loss.{term}" for term in terms}
        assert row["epoch"] == -(-row["step"] // STEPS_PER_EPOCH)
        assert row["lr"] == pytest.approx(0.01 * (1 - (row["step"] - 1) / 15))
        weights = chosen.loss.terms
        total = sum(term.weight * row[f"loss.{term.name}"] for term in weights)
        assert row["loss"] == pytest.approx(total)
        if row["accuracy"] is None:  # the rest of the receiver didn't run
            assert (terms, row["split"]) == ({"mse"}, "train")
        else:
            assert 0 <= row["accuracy"] <= 1
    times = [row["time"] for row in rows]
    assert times == sorted(times)
    assert result.seconds >= times[-1] > 0
    last = rows[-1]
    assert result.metrics["val_accuracy"] == last["accuracy"]
    assert result.metrics["val_loss"] == last["loss"]


def test_final_metrics_are_those_of_the_stitched_network(a, b, digits):
    result = finished(training(a, b, 1, 2, digits, settings()))
    stitched = nn.Sequential(FrozenNetwork(a).prefix(1), result.stitch, FrozenNetwork(b).suffix(2))
    stitched.eval()
    for split, loader in make_loaders(digits, 64, seed=0).items():
        found, short = evaluate(stitched, loader), {"validation": "val"}.get(split, split)
        assert result.metrics[f"{short}_accuracy"] == found.accuracy
        assert result.metrics[f"{short}_loss"] == pytest.approx(found.loss, rel=1e-5)
        if split == "test":
            assert torch.equal(result.predictions, found.predictions)
            own = [evaluate(n, loader).accuracy for n in (a, b)]
    metrics = result.metrics
    assert [metrics["sender_accuracy"], metrics["receiver_accuracy"]] == own
    assert metrics["penalty"] == own[1] - metrics["test_accuracy"]
    assert metrics["stitch_parameters"] == 8 * (4 * 4 + 1)


# Repeatability


def test_the_same_settings_give_the_same_result_bit_for_bit_whatever_ran_before(a, b, digits):
    cell = (a, b, 1, 2, digits, settings({"task": 1.0, "mse": 1.0}), "crop_flip")
    first = outcome(finished(training(*cell)))
    torch.manual_seed(77)
    torch.rand(3)
    finished(training(b, a, 0, 3, digits, settings("mse", epochs=1)))
    assert outcome(finished(training(*cell))) == first
    assert outcome(finished(training(*cell, seed=1))) != first
    assert outcome(finished(training(*cell, repeat=1))) != first


def test_trainings_that_take_turns_do_not_disturb_each_other(a, b, digits):
    cells = [(a, b, 1, 2, digits, settings()), (b, a, 3, 3, digits, settings("mse"))]
    alone = [outcome(finished(training(*cell))) for cell in cells]
    running = [training(*cell) for cell in cells]
    while not all(r.done for r in running):
        for r in running:
            r.advance(1)
    assert [outcome(r.finish()) for r in running] == alone


def test_a_network_its_copy_and_a_second_instance_give_the_same_bit_for_bit(a, b, digits):
    second = build("resnet", 1, 10, TINY)
    second.load_state_dict(a.state_dict())
    for loss in ("task", "mse"):
        found = [
            outcome(finished(training(a, receiver, 2, 2, digits, settings(loss))))
            for receiver in (a, copy.deepcopy(a), second)
        ]
        assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_every_stitch_sees_the_same_batches(a, b, digits, monkeypatch, augment):
    seen: list[list[torch.Tensor]] = []
    original = StitchTraining._train_step

    def spy(self: StitchTraining, rows: Any) -> None:
        seen[-1].append((rows["labels"], rows["sender"]))
        original(self, rows)

    monkeypatch.setattr(StitchTraining, "_train_step", spy)
    for stitch, loss, j, repeat in [
        ("paper", "task", 2, 0),
        ("conv1x1", "mse", 2, 1),
        ("paper", "task", 4, 0),
    ]:
        seen.append([])
        chosen = settings(loss, stitch=stitch)
        finished(training(a, b, 1, j, digits, chosen, augment, repeat=repeat))
    for other in seen[1:]:
        for batch, same in zip(seen[0], other, strict=True):
            assert all(map(torch.equal, batch, same))
    first_epoch, second_epoch = (torch.cat([x for x, _ in seen[0][k : k + 5]]) for k in (0, 5))
    assert not torch.equal(first_epoch, second_epoch)


@pytest.mark.parametrize(
    ("i", "j"), [(-1, 0), (-1, 3), (-1, -1), (0, -1), (2, -1), (4, 4), (4, 0), (0, 4)]
)
@pytest.mark.parametrize("loss", ["task", "mse"])
def test_every_layer_sends_and_receives_the_image_included(a, b, digits, i, j, loss):
    chosen = settings(loss, optimizer={"name": "adam", "lr": 1e-3})
    result = finished(training(a, b, i, j, digits, chosen))
    assert result.status == "finished"
    before = training(a, b, i, j, digits, settings(loss, epochs=0)).finish()
    assert result.metrics["train_loss"] < before.metrics["train_loss"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("loss", ["task", "mse"])
def test_default_learning_rates_teach(a, b, digits, loss, optimizer):
    chosen = settings(loss, epochs=4, optimizer={"name": optimizer})
    result = finished(training(a, b, 2, 2, digits, chosen))
    before = training(a, b, 2, 2, digits, settings(loss, epochs=0)).finish()
    assert result.metrics["val_loss"] < before.metrics["val_loss"]
