"""Every registered stitch, start and loss in short trainings on real images."""

from __future__ import annotations

import pytest
import torch

from stitch_sweep.config.root import Config
from stitch_sweep.core.registry import LOSSES
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.plan.prepare import prepare
from tests.support.networks_training import finish_training, start_training


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_trains_and_gets_better(name, a, b, digits):
    training = start_training(a, b, 2, 3, digits, name, epochs=4, batch_size=32)
    result = finish_training(training)
    losses = [row["loss"] for row in result.trajectory if row["split"] == "validation"]
    assert result.status == "finished"
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["paper", "conv1x1", "conv3x3"])
def test_least_squares_is_a_result_without_training(subtests, name, a, digits):
    for layer in range(5):
        with subtests.test(str(layer)):
            training = start_training(a, a, layer, layer, digits, "mse",
                             {"name": name, "start": "least_squares"}, epochs=0)  # fmt: skip
            metrics = finish_training(training).metrics
            assert abs(metrics["penalty"]) <= 0.001
            assert metrics["converged"]
            assert metrics["excess"] == pytest.approx(0, abs=1e-6)


def test_measures_of_a_network_with_itself(a, digits):
    metrics = finish_training(
        start_training(a, a, 2, 2, digits, stitch="identity", epochs=0)
    ).metrics
    for similar in ("cosine", "correlation", "cca", "svcca", "pwcca", "cka"):
        assert metrics[f"val_{similar}"] == pytest.approx(1, abs=1e-6)
    for distance in ("mse", "relative_mse", "procrustes"):
        assert metrics[f"val_{distance}"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "spoil"),
    [
        ("correlation", lambda w: w * torch.linspace(0.2, 9, len(w))[:, None, None, None]),
        ("cka", lambda w: torch.linalg.qr(torch.randn(len(w), len(w)))[0][:, :, None, None]),
        ("cca", lambda w: torch.randn(len(w), len(w))[:, :, None, None] + 2 * w),
    ],
)
def test_calibration_undoes_what_a_loss_is_blind_to(loss, spoil, a, digits):
    torch.manual_seed(0)
    training = start_training(
        a, a, 2, 2, digits, loss, {"name": "conv1x1", "start": "identity"}, epochs=0
    )
    with torch.no_grad():
        training.stitch.conv.weight.copy_(spoil(training.stitch.conv.weight))
    metrics = finish_training(training).metrics
    receiver_accuracy = metrics["receiver_accuracy"]
    assert metrics["accuracy_raw"] == metrics["test_accuracy"] < receiver_accuracy - 0.1
    assert metrics["accuracy_calibrated"] == pytest.approx(receiver_accuracy, abs=0.01)


def test_a_loss_that_sees_everything_needs_no_calibration(a, b, digits):
    metrics = finish_training(start_training(a, b, 1, 2, digits, "mse")).metrics
    assert metrics["accuracy_calibrated"] == metrics["accuracy_raw"] == metrics["test_accuracy"]


def test_a_teacher_is_the_network_it_is_said_to_be(a, b, digits):
    """The loss is the KL divergence of the stitched network from the teacher's logits."""
    temperature = 2.0
    for teacher, network in (("sender", a), ("receiver", b)):
        loss = {"soft_task": {"weight": 1.0, "teacher": teacher, "temperature": temperature}}
        training = start_training(a, b, 3, 1, digits, loss, epochs=0)
        measured = finish_training(training).metrics["val_loss.soft_task"]
        images = next(iter(make_loaders(digits, 64, seed=0)["validation"].in_order(256)))
        x = images.images[: images.valid]
        with torch.no_grad():
            rows = FrozenNetwork(a).prefix(3)(x)
            stitched = FrozenNetwork(b).suffix(1)(training.stitch(rows))
            p = (network(x) / temperature).softmax(dim=1)
            q = (stitched / temperature).softmax(dim=1)
        by_hand = temperature**2 * (p * (p / q).log()).sum(dim=1).mean().item()
        assert measured == pytest.approx(by_hand, rel=1e-5)


def test_a_sparsity_penalty_shrinks_weights(a, b, digits):
    def size(l1: float) -> float:
        stitch = {"name": "conv1x1", "l1": l1}
        result = finish_training(
            start_training(a, b, 2, 2, digits, "task", stitch, epochs=4, batch_size=32)
        )
        if l1:
            assert all("loss.l1" in r for r in result.trajectory if r["split"] == "train")
        return result.stitch.conv.weight.abs().sum().item()

    assert size(0.1) < size(0.001) < size(0.0)


def test_a_loss_that_can_not_teach_is_said_before_the_sweep_starts(tmp_path):
    tree = {
        "data": {"name": "digits", "image_size": 16},
        "networks": [{"name": n, "family": "resnet1111", "width": 4} for n in "ab"],
        "pairs": [{"sender": "a", "receiver": "b", "sender_layers": [1, 3], "receiver_layers": [1, 3]}],
        "stitch": {"name": "conv1x1"},
        "zoo": str(tmp_path),
    }  # fmt: skip
    notes = prepare(Config.model_validate({**tree, "loss": {"cca": 1.0}})).notes
    blind = [note for note in notes if "'cca' is blind to" in note]
    assert blind
    assert all("a:3 -> b:1" not in note for note in blind), "narrowing cells can be taught"
    assert prepare(Config.model_validate({**tree, "loss": {"task": 1.0}})).notes == []
    assert not any(
        "is blind to" in note
        for note in prepare(Config.model_validate({**tree, "loss": {"cca": 1, "task": 1}})).notes
    ), "a sum teaches if one of its terms does"
