"""Trainings that keep the best stitch, stop when validations don't improve, and whiten channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.stitches.whitened import FULL_RATE_INPUTS, WhitenedStitch
from stitch_sweep.training.evaluations import evaluation_steps
from stitch_sweep.training.loop import StitchTraining
from stitch_sweep.training.selection import Selection
from tests.support.checkpoint_cases import Case, freeze, plain, start
from tests.support.checkpoints import differences, final_state
from tests.support.training import STEPS_PER_EPOCH, finished, outcome, settings, training

LEARNED = {"epochs": 3, "evaluate_every": 0.4}
EVERY_KEY = {
    "coordinates": "whitened",
    "keep": "best",
    "patience": 1,
    "evaluate_every": 2,
    "optimizer": {"name": "adam", "lr": 3.0},
}


def validations(running: StitchTraining) -> list[dict]:
    return [row for row in running.trajectory if row["split"] == "validation"]


@pytest.mark.parametrize("loss", ["task", "mse"])
@pytest.mark.parametrize("coordinates", ["raw", "whitened"])
def test_the_best_row_has_the_metrics_of_the_result(a, b, digits, loss, coordinates):
    """At a learning rate that is too high, the best validation is rarely the last one."""
    chosen = settings(
        loss,
        **LEARNED,
        keep="best",
        coordinates=coordinates,
        optimizer={"name": "sgd", "lr": 2.0 if loss == "task" else 0.3},
    )
    running = training(a, b, 1, 2, digits, chosen)
    result = finished(running)
    rows = validations(running)
    (kept,) = [row for row in result.trajectory if row["kept"]]
    assert [row["step"] for row in rows] == [0, *(5 * e + p for e in range(3) for p in (2, 4, 5))]
    if loss == "task":
        assert kept["accuracy"] == max(row["accuracy"] for row in rows)
    else:
        assert kept["loss"] == min(row["loss"] for row in rows)
    assert kept["accuracy"] == result.metrics["val_accuracy"]
    assert kept["loss"] == result.metrics["val_loss"]
    assert kept["split"] == "validation"


def test_a_training_that_only_makes_it_worse_keeps_its_start(a, digits):
    chosen = settings(
        stitch={"name": "paper", "start": "identity"},
        keep="best",
        optimizer={"name": "sgd", "lr": 1e-9},
    )
    running = training(a, a, 2, 2, digits, chosen)
    with torch.no_grad():
        running.stitch.conv.weight.neg_()
    result = finished(running)
    assert torch.equal(result.stitch.conv.weight.flatten(1), torch.eye(8))
    assert result.metrics["penalty"] == 0
    assert [row["step"] for row in result.trajectory if row["kept"]] == [0]


def test_keeping_the_best_changes_no_step(a, b, digits):
    last = training(a, b, 1, 2, digits, settings(**LEARNED))
    best = training(a, b, 1, 2, digits, settings(**LEARNED, keep="best"))
    rows = [
        {k: v for k, v in row.items() if k not in ("time", "kept")}
        for row in finished(best).trajectory
    ]
    expected = [{k: v for k, v in row.items() if k != "time"} for row in finished(last).trajectory]
    assert [row for row in rows if row["step"] > 0] == expected


def test_validations_change_no_step(a, b, digits):
    once = finished(training(a, b, 1, 2, digits, settings(epochs=2)))
    often = finished(training(a, b, 1, 2, digits, settings(epochs=2, evaluate_every=1)))
    assert outcome(once)["stitch"] == outcome(often)["stitch"]
    assert outcome(once)["predictions"] == outcome(often)["predictions"]


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [
        (5, None, {5}),
        (5, 1, {1, 2, 3, 4, 5}),
        (5, 2, {2, 4, 5}),
        (5, 100, {5}),
        (1, 0.1, {1}),
        (10, 0.25, {3, 5, 8, 10}),
        (3, 1 / 3, {1, 2, 3}),
        (9, 0.999, {9}),
    ],
)
def test_the_steps_of_an_epoch_that_are_validated(steps, every, expected):
    assert evaluation_steps(steps, every) == expected


def test_patience_counts_successive_validations_without_improvement():
    scores = [0.5, 0.4, 0.6, 0.6, 0.6, 0.7, 0.1, 0.2, 0.3]
    selection = Selection("accuracy", keeps_best=False, patience=3)
    exhausted = []
    for step, score in enumerate(scores):
        selection.add(step, {"accuracy": score, "loss": 1.0}, nn.Identity())
        exhausted.append(selection.is_exhausted)
    assert exhausted == [False] * 8 + [True]
    assert selection.step == 5


def test_of_equal_accuracies_the_smaller_loss_is_better():
    selection = Selection("accuracy", keeps_best=False, patience=1)
    for step, loss in enumerate([2.0, 1.0, 1.0]):
        selection.add(step, {"accuracy": 0.5, "loss": loss}, nn.Identity())
    assert (selection.step, selection.is_exhausted) == (1, True)


def test_a_training_stops_when_its_validations_no_longer_improve(a, digits):
    chosen = settings(
        stitch={"name": "paper", "start": "identity"},
        epochs=50,
        patience=3,
        optimizer={"name": "sgd", "lr": 50.0},
    )
    running = training(a, a, 2, 2, digits, chosen)
    result = finished(running)
    assert running.step == 3 * STEPS_PER_EPOCH < running.total_steps
    assert result.status == "finished"
    assert [row["step"] for row in validations(running)] == [0, 5, 10, 15]


def test_whitened_coordinates_reach_a_smaller_training_error_in_as_many_steps(a, b, digits):
    errors = {}
    for coordinates in ("raw", "whitened"):
        chosen = settings("mse", epochs=2, coordinates=coordinates)
        result = finished(training(a, b, 0, 0, digits, chosen))
        assert list(result.stitch.state_dict()) == ["conv.weight", "conv.bias"]
        errors[coordinates] = result.metrics["excess"]
    assert errors["whitened"] < errors["raw"]


def test_restricted_stitches_are_trained_in_raw_coordinates(a, b, digits):
    for stitch in ("lowrank", "mlp", "bn_conv1x1_bn"):
        raw, whitened = (
            finished(training(a, b, 2, 3, digits, settings(stitch=stitch, coordinates=coordinates)))
            for coordinates in ("raw", "whitened")
        )
        assert outcome(raw) == outcome(whitened), stitch


def test_the_default_rate_of_adam_falls_with_the_length_of_a_row(a, b, digits):
    rates = {}
    for optimizer in ({"name": "adam"}, {"name": "sgd"}, {"name": "adam", "lr": 0.02}):
        for coordinates in ("raw", "whitened"):
            chosen = settings(
                coordinates=coordinates,
                optimizer=optimizer,
                schedule={"name": "constant", "warmup": 0.0},
            )
            running = training(a, b, 0, 3, digits, chosen)
            running.advance(STEPS_PER_EPOCH)
            rates[tuple(optimizer.values()), coordinates] = running.trajectory[-1]["lr"]
            inputs = running._cell.fold_stitch().inputs
    assert inputs > FULL_RATE_INPUTS, "the cell is one where the limit matters"
    assert rates[("adam",), "raw"] == 0.03
    assert rates[("adam",), "whitened"] == pytest.approx(0.03 * FULL_RATE_INPUTS / inputs)
    assert rates[("sgd",), "whitened"] == rates[("sgd",), "raw"]
    assert rates[("adam", 0.02), "whitened"] == 0.02


@pytest.fixture(scope="module")
def networks(trained: dict[str, nn.Module]) -> list[FrozenNetwork]:
    return freeze(trained)


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_a_training_with_every_key_can_be_cut_after_any_step(networks, digits, augment):
    case = Case(EVERY_KEY, augment=augment)
    reference = start(case, networks, digits)
    assert isinstance(reference.stitch, WhitenedStitch)
    whole = plain(final_state(reference, networks, digits))
    stopped = reference.step
    assert 0 < stopped < reference.total_steps, "patience ends this training early"
    for step in range(stopped + 1):
        running = start(case, networks, digits)
        running.advance(step)
        resumed = start(case, networks, digits)
        resumed.restore(running.checkpoint())
        assert (resumed.step, resumed.done) == (step, step == stopped)
        found = plain(final_state(resumed, networks, digits))
        assert not list(differences(found, whole)), f"cut after step {step}"


def test_the_recipes_train_every_stitch(a, b, digits):
    for recipe in ("fast", "paper"):
        for stitch in ("paper", "conv3x3", "linear", "mlp"):
            try:
                running = training(
                    a, b, 3, 3, digits, settings(stitch=stitch, recipe=recipe, epochs=1)
                )
            except InputError as error:
                pytest.fail(f"{recipe} {stitch}: {error}")
            assert finished(running).status == "finished", (recipe, stitch)
