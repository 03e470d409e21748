"""`stitch.start: auto`: solve the stitch where that is possible, otherwise start it well."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.data.augmentation import normalize_images
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.closed_forms import AffineMap
from stitch_sweep.stitches.starts import choose_start, start_stitch
from stitch_sweep.training import cell as cells
from stitch_sweep.training.readout import (
    EIGENVALUE_RIDGES,
    PENALTIES,
    Head,
    find_head,
    fit_maps,
    mean_rows,
)
from tests.support.stitches import draw
from tests.support.training import finished, frozen, outcome, settings, training

AUTO = {"name": "paper", "start": "auto"}


def test_it_chooses_least_squares_where_a_stitch_has_it():
    chosen = {
        name: choose_start(build_stitch(name, (4, 4, 4), (4, 4, 4)), "auto")
        for name in STITCHES.names()
    }
    random = {"identity", "mlp", "basic_block", "bottleneck"}
    assert {name for name, start in chosen.items() if start == "random"} == random
    assert set(chosen.values()) == {"random", "least_squares"}


@pytest.mark.parametrize("loss", ["mse", "correlation", "cca"])
def test_nothing_is_trained_where_least_squares_is_the_optimum(a, b, digits, loss):
    for cell in [(2, 0), (1, 3)]:
        solved = training(a, b, *cell, digits, settings(loss, stitch=AUTO))
        assert solved.done
        result = finished(solved)
        assert result.metrics["converged"] is True
        trained = settings(loss, stitch={"name": "paper", "start": "least_squares"}, epochs=4)
        other = finished(training(a, b, *cell, digits, trained))
        # The ridge inside the loss `cca` moves its optimum a little.
        slack = 5e-3 if loss == "cca" else 1e-6
        assert result.metrics["train_loss"] <= other.metrics["train_loss"] + slack, cell


def test_it_trains_where_least_squares_is_not_the_optimum(a, b, digits):
    cases = {
        "another loss": (settings("cosine", stitch=AUTO), "none"),
        "a penalty": (settings("mse", stitch={**AUTO, "l1": 0.1}), "none"),
        "augmentation": (settings("mse", stitch=AUTO), "crop_flip"),
        "the task, into a layer before others": (settings("task", stitch=AUTO), "none"),
    }
    for name, (chosen, augment) in cases.items():
        assert not training(a, b, 1, 3, digits, chosen, augment).done, name


def test_it_is_the_least_squares_start_of_a_training(a, b, digits):
    auto, least_squares = (
        finished(training(a, b, 1, 3, digits, settings(stitch={"name": "paper", "start": start})))
        for start in ("auto", "least_squares")
    )
    assert outcome(auto) == outcome(least_squares)


def test_a_start_that_is_trained_afterwards_needs_a_sample_only(a, b, digits, monkeypatch):
    """The start is the regression on every third image; an optimum still needs them all."""
    count = len(digits.train)
    monkeypatch.setattr(cells, "SAMPLE_IMAGES", count // 3)
    monkeypatch.setattr(cells, "SAMPLE_ROWS", 0)
    chosen = settings(stitch={"name": "conv1x1", "start": "auto"}, epochs=0)
    found = finished(training(a, b, 2, 3, digits, chosen)).stitch
    sample = digits.train.select(torch.arange(count // 3) * count // (count // 3))
    sender, receiver = frozen(a, b)
    images = normalize_images(sample.images, digits.mean, digits.std)
    with torch.no_grad():
        x, y = sender.prefix(2)(images), receiver.prefix(3)(images)
    expected = build_stitch("conv1x1", tuple(x.shape[1:]), tuple(y.shape[1:]))
    start_stitch(expected, "least_squares", [(x, y)])
    torch.testing.assert_close(found.matrix(), expected.matrix(), rtol=1e-4, atol=1e-5)
    solved = finished(training(a, b, 2, 3, digits, settings("mse", stitch=AUTO)))
    assert solved.metrics["excess"] == pytest.approx(0, abs=1e-6)


def test_long_rows_get_more_images(a, b, digits, monkeypatch):
    """A stitch whose rows are long is not fitted on fewer rows than inputs."""
    monkeypatch.setattr(cells, "SAMPLE_IMAGES", 1)
    read = []

    def record(stitch, start, pairs):
        read.append((stitch, sum(len(x) for x, _ in pairs)))

    monkeypatch.setattr(cells, "start_stitch", record)
    training(a, b, 0, 3, digits, settings(stitch=AUTO))
    ((stitch, images),) = read
    assert 1 < images < len(digits.train)
    assert (
        images * stitch.positions
        >= cells.SAMPLE_ROWS * stitch.inputs
        > (images - 1) * stitch.positions
    )


def test_a_sender_is_whitened_by_a_sample(a, b, digits, monkeypatch):
    """By every third image: of these, the center is the mean, and no direction's variance exceeds 1."""
    count = len(digits.train)
    monkeypatch.setattr(cells, "SAMPLE_IMAGES", count // 3)
    monkeypatch.setattr(cells, "SAMPLE_ROWS", 0)
    chosen = settings(stitch={"name": "conv1x1"}, coordinates="whitened")
    stitch = training(a, b, 1, 1, digits, chosen).stitch
    sample = digits.train.select(torch.arange(count // 3) * count // (count // 3))
    with torch.no_grad():
        x = frozen(a, b)[0].prefix(1)(normalize_images(sample.images, digits.mean, digits.std))
    rows = x.movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(stitch.center, rows.mean(dim=0), rtol=1e-4, atol=1e-5)
    variances = torch.linalg.eigvalsh(stitch.zca @ rows.T.cov(correction=0) @ stitch.zca)
    assert variances.max().item() == pytest.approx(1, abs=1e-3)


def test_the_training_accuracy_of_a_sample(a, b, digits):
    """It is the mean over as many training images as there are validation images, evenly spread."""
    chosen = settings(train_metrics="sample", epochs=1)
    result = finished(training(a, b, 2, 3, digits, chosen))
    (sender, receiver) = frozen(a, b)
    count, size = len(digits.train), len(digits.validation)
    sample = digits.train.select(torch.arange(size) * count // size)
    images = normalize_images(sample.images, digits.mean, digits.std)
    with torch.no_grad():
        logits = receiver.suffix(3)(result.stitch(sender.prefix(2)(images)))
    accuracy = (logits.argmax(dim=1) == sample.labels).double().mean().item()
    assert result.metrics["train_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    whole = finished(training(a, b, 2, 3, digits, settings(epochs=1)))
    assert whole.metrics["train_loss"] != result.metrics["train_loss"]
    assert {k: v for k, v in whole.metrics.items() if not k.startswith("train_")} == {
        k: v for k, v in result.metrics.items() if not k.startswith("train_")
    }


def test_the_head_of_the_last_layer_is_found_and_no_other(b, digits):
    (receiver,) = frozen(b)
    for layer in range(5):
        shape = receiver.shape(layer, digits.image_shape)
        stitch = build_stitch("conv1x1", (4, 8, 8), shape)
        head = find_head(receiver.suffix(layer), stitch)
        assert (head is not None) == (layer == 4), layer
        if head is not None:
            torch.testing.assert_close(head.weight, b.fc.weight.detach().double())
            torch.testing.assert_close(head.offset, b.fc.bias.detach().double())
    few_channels = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    assert find_head(few_channels, build_stitch("conv1x1", (4, 8, 8), (4, 2, 2))) is None
    by_position = nn.Sequential(nn.Flatten(), nn.Linear(16 * 4, 10))
    assert find_head(by_position, build_stitch("conv1x1", (4, 8, 8), (16, 2, 2))) is None


def test_a_rest_that_is_not_affine_is_never_differentiated():
    differentiated = []

    class Watched(nn.Module):
        def forward(self, x):
            x = x.clone()
            if x.requires_grad:
                x.register_hook(lambda _: differentiated.append(True))
            return x

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    stitch = build_stitch("conv1x1", (4, 8, 8), (16, 2, 2))
    others = [nn.ReLU(), nn.GELU(), nn.LayerNorm([16, 2, 2]), nn.MaxPool2d(2), nn.Hardtanh(-5, 5)]
    for other in others:
        rest = nn.Sequential(Watched(), other, *head)
        assert find_head(rest, stitch) is None, other
        assert not differentiated, other
    assert find_head(nn.Sequential(Watched(), *head), stitch) is not None
    assert len(differentiated) == 10


@pytest.mark.parametrize(
    ("name", "sender", "receiver"),
    [
        ("paper", (3, 8, 8), (12, 2, 2)),
        ("conv1x1", (3, 2, 2), (12, 4, 4)),
        ("conv3x3", (3, 4, 4), (12, 4, 4)),
        ("linear", (3, 2, 2), (12,)),
    ],
)
def test_logits_of_a_fitted_map_are_those_of_a_logistic_regression(name, sender, receiver):
    """Against scikit-learn, on whitened mean rows."""
    from sklearn.linear_model import LogisticRegression

    classes, count = 5, 300
    stitch = build_stitch(name, sender, receiver)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if len(receiver) == 3 else []
    rest = nn.Sequential(*pool, nn.Linear(12, classes))
    x = draw(count, *sender, dtype=torch.float32) + 0.5
    labels = (x.flatten(1)[:, :classes] + 0.3 * draw(count, classes, seed=1)).argmax(dim=1)
    head = find_head(rest, stitch)
    assert isinstance(head, Head)
    base = AffineMap(stitch.matrix().detach().double(), stitch.offset().detach().double(), 0.0)
    rows = mean_rows(stitch, x.split(64))
    maps = list(fit_maps(head, base, rows, labels))
    assert len(maps) == len(PENALTIES) * len(EIGENVALUE_RIDGES)
    centered = (rows - rows.mean(dim=0)).double()
    eigenvalues, vectors = torch.linalg.eigh(centered.T @ centered / count)
    white = centered @ vectors / (eigenvalues + EIGENVALUE_RIDGES[0] * eigenvalues.mean()).sqrt()
    for penalty, (weight, bias) in zip(PENALTIES, maps, strict=False):
        stitch.set_map(weight, bias)
        with torch.no_grad():
            found = rest(stitch(x)).softmax(dim=1).double()
        oracle = LogisticRegression(C=1 / (count * penalty), tol=1e-8, max_iter=1000)
        expected = oracle.fit(white.numpy(), labels.numpy()).predict_proba(white.numpy())
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=2e-3)


def test_the_task_is_solved_where_the_receiver_is_linear(a, b, digits):
    solved = []
    for sender_layer in (0, 2, 4):
        running = training(a, b, sender_layer, 4, digits, settings(stitch=AUTO))
        solved.append(running.done)
        start = {"name": "paper", "start": "least_squares"}
        result, base = (
            finished(training(a, b, sender_layer, 4, digits, settings(stitch=stitch, epochs=0)))
            for stitch in (AUTO, start)
        )
        assert result.metrics["val_loss"] <= base.metrics["val_loss"]
        if running.done:
            assert result.metrics["converged"] is True
            assert outcome(finished(running))["stitch"] == outcome(result)["stitch"]
    assert any(solved)


def test_a_stitch_that_takes_no_step_has_the_same_bits_in_whitened_coordinates(a, b, digits):
    start = {"name": "paper", "start": "least_squares"}
    cases = {
        "solved by least squares": ((2, 0), settings("mse", stitch=AUTO)),
        "solved for the task": ((0, 4), settings(stitch=AUTO)),
        "no epochs": ((1, 3), settings(stitch=start, epochs=0)),
    }
    for name, (cell, raw) in cases.items():
        section = raw.training.model_copy(update={"coordinates": "whitened"})
        whitened = raw.model_copy(update={"training": section})
        running = [training(a, b, *cell, digits, chosen) for chosen in (raw, whitened)]
        assert all(each.done for each in running), name
        first, second = (outcome(finished(each)) for each in running)
        assert first == second, name


@pytest.mark.parametrize("section", [{}, {"keep": "best", "patience": 1, "evaluate_every": 0.5}])
def test_the_trajectory_of_a_training_without_steps_is_its_validation(a, b, digits, section):
    cases = {
        "solved": ((2, 0), settings("mse", stitch=AUTO, **section)),
        "solved for the task": ((0, 4), settings(stitch=AUTO, **section)),
        "nothing to train": ((1, 1), settings(stitch="identity", **section)),
        "no epochs": ((1, 3), settings({"task": 1, "mse": 2}, **{**section, "epochs": 0})),
    }
    for name, (cell, chosen) in cases.items():
        running = training(a, a if name == "nothing to train" else b, *cell, digits, chosen)
        result = finished(running)
        (row,) = result.trajectory
        assert 0 < row.pop("time") < result.seconds, name
        validation = {
            key.removeprefix("val_"): value
            for key, value in result.metrics.items()
            if key in ("val_accuracy", "val_loss") or key.startswith("val_loss.")
        }
        assert row == {"step": 0, "epoch": 0, "split": "validation", "lr": 0.0, **validation}, name
