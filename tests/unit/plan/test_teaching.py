"""Notes on learning rates that a cell can't bear."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from stitch_sweep.config.reading import read_config
from stitch_sweep.config.root import Config
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.training.loop import StitchTraining
from tests.support.paths import ROOT
from tests.support.training import finished, settings, training

RANGE = {"type": "float", "low": 0.001, "high": 0.01, "log": True}
SGD = {"name": "sgd", "lr": 0.01, "momentum": 0.9}


def notes(**changes: Any) -> list[str]:
    tree = {
        "data": {"name": "digits", "image_size": 16},
        "networks": [
            {"name": name, "family": "resnet1111", "width": 8, "seed": k}
            for k, name in enumerate("ab")
        ],
        "pairs": [{"sender": "a", "receiver": "b"}],
        "loss": {"mse": 1.0},
        "training": {"optimizer": SGD},
    }
    prepared = prepare(Config.model_validate({**tree, **changes}))
    return [note for note in prepared.notes if "may diverge" in note]


def test_the_cells_whose_rows_are_too_long_for_the_paper_s_rate_are_named():
    (note,) = notes()
    # Patches of 8 x 8 positions of 8 channels, and of 4 x 4 of 16; the next longer rows have 128 values.
    assert note.startswith("a:0 -> b:4, a:1 -> b:4, a:2 -> b:4: paper: mse with SGD at a learning")
    (default,) = notes(training={"optimizer": {"name": "sgd"}})
    assert default == note


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"recipe": "fast"}},
        {"training": {"optimizer": {**SGD, "lr": 0.003}}},
        {"training": {"optimizer": SGD, "coordinates": "whitened"}},
        {"training": {}},
        {"loss": {"task": 1.0}},
        {"stitch": {"name": "paper", "start": "auto"}},
        {"search": {"space": {"training.optimizer.lr": RANGE}}},
    ],
    ids=str,
)
def test_other_trainings_have_no_such_note(changes):
    assert notes(**changes) == []


def largest_curvature(running: StitchTraining) -> float:
    """The largest eigenvalue of the Hessian of `mse`, 2/v E[r r^T], from the sender's patches."""
    cell = running._cell
    inputs = torch.cat(list(cell.splits["train"].inputs())).double()
    side = inputs.shape[-1] // cell.shapes[1][-1]
    rows = functional.unfold(inputs, side, stride=side).transpose(1, 2).flatten(0, 1)
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1)
    moments = rows.T @ rows / len(rows)
    return 2 * torch.linalg.eigvalsh(moments)[-1].item() / cell.splits["train"].expected_variance()


def test_sgd_diverges_above_the_stable_step_and_a_recipe_does_not(a, b, digits):
    def train(**plan: Any) -> float:
        result = finished(training(a, b, 1, 4, digits, settings("mse", **plan)))
        return result.metrics.get("train_relative_mse", math.inf)

    curvature = largest_curvature(training(a, b, 1, 4, digits, settings("mse")))
    constant = {"epochs": 20, "schedule": {"name": "constant", "warmup": 0.0}}
    reached = {
        factor: train(**constant, optimizer={"name": "sgd", "lr": factor / curvature})
        for factor in (1.0, 3.0)
    }
    assert reached[1.0] < 1, "1 is no better than a constant"
    assert reached[3.0] > 10
    # The note's rule: the stable step, 2 / curvature, is about 2 / D.
    assert 0.2 < curvature / 256 < 5
    assert train(recipe="fast") < reached[1.0]
    # Without the closed form, too.
    chosen = settings("mse", recipe="fast", epochs=4, batch_size=16)
    stitch = chosen.stitch.model_copy(update={"start": "random"})
    running = training(a, b, 1, 4, digits, chosen.model_copy(update={"stitch": stitch}))
    assert finished(running).metrics["train_relative_mse"] < reached[1.0]


def test_the_gpu_ladder_has_no_cell_that_diverges():
    config = read_config(ROOT / "experiments/cifar10/ladder_gpu/config.yml")
    assert config.training.recipe == "fast"
    assert (config.training.coordinates, config.stitch.start) == ("whitened", "auto")
