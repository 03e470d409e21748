"""Every registered stitch, start and loss in trainings on real images, and in a sweep."""

from __future__ import annotations

import itertools
import json
from typing import Any, get_args

import pandas as pd
import pytest
import torch

from stitch_sweep.config.models import Config, StitchConfig, TrialSettings
from stitch_sweep.config.reading import read_config
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import LOSSES, STITCHES
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.families.building import build
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.plan.prepare import misfit, prepare, provide_networks
from stitch_sweep.stitches.base import DATA_STARTS, STARTS
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.training.loop import StitchResult, StitchTraining
from stitch_sweep.training.workbench import Workbench
from tests.support.paths import ROOT
from tests.support.sweeps import run, write_config

QUICKSTART = ROOT / "experiments/quickstart/digits/config.yml"


def start(a, b, i, j, data, loss="task", stitch: Any = "paper", **training: Any) -> StitchTraining:
    settings = TrialSettings.model_validate(
        {
            "stitch": stitch if isinstance(stitch, dict) else {"name": stitch},
            "loss": {loss: 1.0} if isinstance(loss, str) else loss,
            "training": {"epochs": 1, **training},
        }
    )
    loaders = make_loaders(data, settings.training.batch_size, seed=0)
    a, b = (n if isinstance(n, FrozenNetwork) else FrozenNetwork(n) for n in (a, b))
    return StitchTraining(a, b, i, j, loaders, settings)


def finish(training: StitchTraining) -> StitchResult:
    while not training.done:
        training.run_epoch()
    return training.finish()


@pytest.mark.parametrize("start_name", STARTS)
@pytest.mark.parametrize("name", STITCHES.names())
def test_every_stitch_trains_from_every_start_it_takes(name, start_name, a, b, digits):
    ran = 0
    for i, j in ((2, 2), (1, 3), (3, 1), (-1, 2)):
        try:
            training = start(a, b, i, j, digits, stitch={"name": name, "start": start_name})
        except InputError:
            continue
        result = finish(training)
        assert result.status == "finished"
        assert result.metrics["stitch_multiply_adds"] >= 0
        ran += 1
    # What no cell takes is refused for a reason that test_starts.py knows.
    assert ran or start_name != "random"


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_trains_and_gets_better(name, a, b, digits):
    training = start(a, b, 2, 3, digits, name, epochs=4, batch_size=32)
    result = finish(training)
    losses = [row["loss"] for row in result.trajectory if row["split"] == "validation"]
    assert result.status == "finished"
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("layer", range(5))
@pytest.mark.parametrize("name", ["paper", "conv1x1", "conv3x3"])
def test_least_squares_is_a_result_without_training(name, layer, a, digits):
    training = start(a, a, layer, layer, digits, "mse",
                     {"name": name, "start": "least_squares"}, epochs=0)  # fmt: skip
    metrics = finish(training).metrics
    assert abs(metrics["penalty"]) <= 0.001
    assert metrics["converged"]
    assert metrics["excess"] == pytest.approx(0, abs=1e-6)


@pytest.mark.long
def test_networks_trained_onto_themselves_at_the_defaults_reach_their_own_accuracy(tmp_path):
    """The quickstart's own networks, at every layer."""
    config = read_config(QUICKSTART, {"zoo": str(tmp_path)})
    prepared = prepare(config)
    bench = Workbench(config, prepared.data, provide_networks(prepared))
    settings = TrialSettings.model_validate({"loss": {"mse": 1.0}})
    for name, layer in itertools.product("ab", range(5)):
        metrics = finish(bench.training(name, layer, name, layer, settings)).metrics
        assert abs(metrics["penalty"]) <= 0.01, (name, layer)


def test_measures_of_a_network_with_itself(a, digits):
    metrics = finish(start(a, a, 2, 2, digits, stitch="identity", epochs=0)).metrics
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
    training = start(a, a, 2, 2, digits, loss, {"name": "conv1x1", "start": "identity"}, epochs=0)
    with torch.no_grad():
        training.stitch.conv.weight.copy_(spoil(training.stitch.conv.weight))
    metrics = finish(training).metrics
    own = metrics["receiver_accuracy"]
    assert metrics["accuracy_raw"] == metrics["test_accuracy"] < own - 0.1
    assert metrics["accuracy_calibrated"] == pytest.approx(own, abs=0.01)


def test_a_loss_that_sees_everything_needs_no_calibration(a, b, digits):
    metrics = finish(start(a, b, 1, 2, digits, "mse")).metrics
    assert metrics["accuracy_calibrated"] == metrics["accuracy_raw"] == metrics["test_accuracy"]


def test_a_teacher_is_the_network_it_is_said_to_be(a, b, digits):
    """KL divergence by hand, of the untrained stitched network from either network's own logits."""
    temperature = 2.0
    for teacher, network in (("sender", a), ("receiver", b)):
        loss = {"soft_task": {"weight": 1.0, "teacher": teacher, "temperature": temperature}}
        training = start(a, b, 3, 1, digits, loss, epochs=0)
        measured = finish(training).metrics["val_loss.soft_task"]
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
        result = finish(start(a, b, 2, 2, digits, "task", stitch, epochs=4, batch_size=32))
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


@pytest.mark.long
def test_all_of_it_in_one_sweep(tmp_path):
    stitches = [{"name": name} for name in STITCHES.names()]
    stitches += [{"name": "paper", "start": name} for name in DATA_STARTS]
    config = write_config(
        tmp_path,
        tmp_path / "zoo",
        pairs=[{"sender": "a", "receiver": "b", "sender_layers": [2], "receiver_layers": [2]}],
        search={"cross": {"stitch": stitches, "loss": [{name: 1.0} for name in LOSSES.names()]}},
        training={"epochs": 1, "batch_size": 64},
        keep_stitches="none",
        tracking={"enabled": False},
    )
    status, output = run("sweep", config, "--workers", 2)
    assert status == 0, output
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert len(results) == len(stitches) * len(LOSSES.names())
    assert set(results["status"]) == {"finished"}
    assert json.loads((tmp_path / "summary.json").read_text())
    assert results[["val_cka", "accuracy_calibrated", "stitch_multiply_adds"]].notna().all().all()


def variants(sender: Shape, receiver: Shape) -> list[dict[str, Any]]:
    """Every registered stitch under every spatial rule and start that it knows for two shapes."""
    found = []
    for name in STITCHES.names():
        fields = STITCHES.get(name).options.model_fields
        rules = {key: get_args(fields[key].annotation) for key in ("down", "up") if key in fields}
        for values in itertools.product(*rules.values()):
            for start_name in STARTS:
                tree = {"name": name, "start": start_name, **dict(zip(rules, values, strict=True))}
                if misfit(StitchConfig.model_validate(tree), sender, receiver) is None:
                    found.append(tree)
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("cell", "sizes"),
    [((3, 3), (7, 7)), ((3, 4), (7, 4)), ((4, 3), (4, 7))],
    ids=["equal", "down", "up"],
)
def test_every_stitch_under_every_spatial_rule_and_start_in_a_sweep(cell, sizes, tmp_path):
    """On real images, and at an odd ratio of sizes."""
    network = FrozenNetwork(build("resnet", 1, 10, {"blocks": [1, 1, 1, 1], "width": 4}))
    sender, receiver = (network.shape(layer, (1, 28, 28)) for layer in cell)
    assert (sender[-1], receiver[-1]) == sizes
    crossed = variants(sender, receiver)
    names = {tree["name"] for tree in crossed}
    # Between unlike maps: what keeps channels as they are, or wants whole ratios, has no place.
    unlike = {"affine", "identity", "paper"} if sizes[0] != sizes[1] else set()
    assert set(STITCHES.names()) - names == unlike
    config = write_config(
        tmp_path,
        tmp_path / "zoo",
        data={"name": "digits", "image_size": 28, "train_images": 300, "test_images": 100},
        pairs=[
            {
                "sender": "a",
                "receiver": "b",
                "sender_layers": [cell[0]],
                "receiver_layers": [cell[1]],
            }
        ],
        search={"cross": {"stitch": crossed}},
        training={"epochs": 1, "batch_size": 64},
        keep_stitches="none",
        tracking={"enabled": False},
    )
    status, output = run("sweep", config, "--workers", 2)
    assert status == 0, output
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert len(results) == len(crossed)
    assert set(results["status"]) == {"finished"}
    assert set(results["stitch"]) == names
