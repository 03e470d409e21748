"""Whether a training was long enough: learning curves with known futures, and real trainings."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.data.images import Data
from stitch_sweep.training.convergence import LEAST_IMAGES, has_settled
from stitch_sweep.training.learning_curve import PIECES, CurveRecorder, LearningCurve, Piece
from tests.support.training import finished, settings, training

STEPS = 640
SCHEDULES = (("constant", 0.0), ("linear", 0.0), ("warmup_cosine", 0.1))


def draw(
    loss: Callable[[float], float],
    accuracy: Callable[[float], float] | None = None,
    validation: Callable[[float], float] | None = None,
    *,
    schedule: tuple[str, float] = ("constant", 0.0),
    steps: int = STEPS,
    total: int | None = None,
) -> LearningCurve:
    """Draw a curve whose values are functions of the learning time, 1 at the end of the schedule."""
    total = total or steps
    name, warmup = schedule
    config = ScheduleConfig.model_validate({"name": name, "warmup": warmup})
    times = np.cumsum([config.factor(k, total) for k in range(total)])
    times /= times[-1]
    stride = max(1, total // PIECES)
    ends = range(stride, steps + 1, stride)
    pieces = [
        Piece(end, loss(times[end - 1]), accuracy and accuracy(times[end - 1]), 10 * stride)
        for end in ends
    ]
    validations = [(end, validation(times[end - 1])) for end in ends] if validation else []
    return LearningCurve(pieces, validations, total, config)


def test_a_curve_that_has_flattened_has_settled_under_every_schedule():
    for schedule in SCHEDULES:
        for rate, answer in ((40, True), (4, False)):
            curve = draw(
                lambda t, r=rate: 2 * math.exp(-r * t) + 0.3,
                lambda t, r=rate: 0.9 - 0.8 * math.exp(-r * t),
                schedule=schedule,
            )
            for by_accuracy in (True, False):
                assert has_settled(curve, by_accuracy=by_accuracy) is answer, (schedule, rate)


def test_a_loss_that_falls_in_proportion_to_time_never_looks_flat():
    """A rate far too small: the accuracy stays at chance, and the loss falls by 1e-6 of itself."""
    for speed in (1.0, 1e-2, 1e-6):
        for schedule in SCHEDULES:
            curve = draw(lambda t, s=speed: 6 - s * t, lambda t: 0.1, schedule=schedule)
            for by_accuracy in (True, False):
                assert has_settled(curve, by_accuracy=by_accuracy) is False, (speed, schedule)


def test_a_curve_from_which_nothing_can_be_learned_has_no_answer():
    noise = np.random.default_rng(0).normal(size=STEPS + 1)
    still = draw(lambda t: 2 + 0.01 * noise[round(t * STEPS)], lambda t: 0.5)
    rising = draw(lambda t: 2 + t, lambda t: 0.1)
    for curve in (still, rising, draw(lambda t: 2.0, lambda t: 0.5)):
        assert has_settled(curve, by_accuracy=True) is None


def test_a_training_that_is_no_better_than_guessing_has_not_converged():
    flat = draw(lambda t: math.log(10) + 3 * math.exp(-60 * t) + 0.01, lambda t: 0.1)
    assert has_settled(flat, by_accuracy=True) is True
    assert has_settled(flat, by_accuracy=True, guessing=math.log(10)) is False


def test_a_training_of_few_steps_has_no_answer():
    for steps in (0, 1, 4, 7):
        assert (
            has_settled(draw(lambda t: 1 - t, steps=steps, total=max(1, steps)), by_accuracy=False)
            is None
        )


def test_between_a_small_and_a_large_gain_there_is_no_answer():
    answers = []
    for gain in (0.0, 0.01, 0.03, 0.05, 0.08, 0.2):
        curve = draw(
            lambda t: 5 * math.exp(-30 * t),
            lambda t, g=gain: 0.7 + g * (t > 0.5),
        )
        answers.append(has_settled(curve, by_accuracy=True))
    assert answers == [True, True, None, None, None, False]


def test_memorizing_counts_unless_enough_validation_images_show_that_it_is_for_nothing():
    curve = draw(
        lambda t: 2 * math.exp(-8 * t),
        lambda t: 1 - math.exp(-3 * t),
        validation=lambda t: 0.6 - 0.5 * math.exp(-60 * t),
    )
    assert has_settled(curve, by_accuracy=True, validation_images=LEAST_IMAGES) is True
    assert has_settled(curve, by_accuracy=True, validation_images=LEAST_IMAGES - 1) is False


def test_a_training_that_stopped_early_is_judged_by_the_steps_that_it_took():
    def loss(t: float) -> float:
        return 2 * math.exp(-40 * t) + 0.3

    short = draw(loss, steps=STEPS // 20, total=STEPS)  # stops in the middle of the fall
    assert has_settled(short, by_accuracy=False) is not True
    assert has_settled(draw(loss, steps=STEPS // 2, total=STEPS), by_accuracy=False) is True


def test_pieces_are_the_means_of_their_steps_also_after_a_pause():
    random = np.random.default_rng(0)
    for total in (3, PIECES, 1000):
        losses, counts = random.normal(size=total), random.integers(1, 9, size=total)
        recorder = CurveRecorder(total)
        for k in range(total):
            values = {"loss": torch.tensor(losses[k]), "other": torch.tensor(0.0)}
            recorder.add(k + 1, values, int(counts[k]))
            if k == total // 2:
                state = recorder.state_dict()
                recorder = CurveRecorder(total)
                recorder.load_state_dict(state, "cpu")
        ends = [piece.step for piece in recorder.pieces]
        assert len(ends) == min(total, PIECES)
        assert ends[-1] == total
        for begin, piece in zip([0, *ends], recorder.pieces, strict=False):
            part = slice(begin, piece.step)
            assert piece.loss == pytest.approx(np.average(losses[part], weights=counts[part]))
            assert piece.images == counts[part].sum()
            assert piece.accuracy is None


# Real trainings


@pytest.mark.parametrize("lr", [1e-9, 3e-4])
def test_a_slow_training_from_a_bad_start_is_not_called_converged(a, b, digits, lr):
    """Both were once called converged; the same training at a fitting rate is far better."""
    plan = {"epochs": 16, "schedule": {"name": "constant"}}
    slow = settings("task", optimizer={"name": "adam", "lr": lr}, **plan)
    fitting = settings("task", optimizer={"name": "adam", "lr": 3e-2}, **plan)
    result = finished(training(a, b, 3, 1, digits, slow)).metrics
    better = finished(training(a, b, 3, 1, digits, fitting)).metrics
    assert better["val_accuracy"] > result["val_accuracy"] + 0.1
    assert result["converged"] is False


def test_one_epoch_of_small_batches_has_an_answer(a, b, digits):
    chosen = settings("task", epochs=1, batch_size=2, optimizer={"name": "adam", "lr": 1e-2})
    assert finished(training(a, b, 3, 1, digits, chosen)).metrics["converged"] is False
    untrained = finished(training(a, b, 3, 1, digits, settings("task", epochs=0))).metrics
    assert untrained["converged"] is None


def correlations(a: nn.Module, b: nn.Module, data: Data) -> float:
    """The mean multiple correlation of b's channels after layer 3 with a's, by numpy's least squares."""
    pixels = data.train.images.float() / 255
    images = (pixels - data.mean.view(-1, 1, 1)) / data.std.view(-1, 1, 1)
    rows = []
    with torch.no_grad():
        for network in (a, b):
            kept: list[torch.Tensor] = []
            hook = network.layer3.register_forward_hook(lambda *x, k=kept: k.append(x[-1]))
            network(images)
            hook.remove()
            rows.append(kept[0].permute(0, 2, 3, 1).flatten(0, 2).double().numpy())
    x, y = rows
    design = np.column_stack([x, np.ones(len(x))])
    predicted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(np.mean([np.corrcoef(p, q)[0, 1] for p, q in zip(predicted.T, y.T, strict=True)]))


def test_a_correlation_is_compared_with_the_multiple_correlation(a, b, digits):
    short = {"epochs": 1, "optimizer": {"name": "adam", "lr": 1e-5}}
    long = {"epochs": 30, "optimizer": {"name": "adam", "lr": 3e-2}}
    results = {
        answer: finished(training(a, b, 3, 3, digits, settings("correlation", **plan))).metrics
        for answer, plan in ((False, short), (True, long))
    }
    # The loss is a mean over chunks of images.
    optimum = 1 - correlations(a, b, digits)
    for answer, metrics in results.items():
        assert metrics["optimal_train_loss"] == pytest.approx(optimum, rel=0.02)
        assert metrics["converged"] is answer
        assert metrics["train_loss"] > metrics["optimal_train_loss"]


def test_the_comparison_with_least_squares_leaves_the_stitch_as_it_was(a, b, digits):
    running = training(a, b, 3, 3, digits, settings("cca", epochs=1))
    while not running.done:
        running.run_epoch()
    before = {name: t.clone() for name, t in running.stitch.state_dict().items()}
    result = running.finish()
    assert all(torch.equal(before[name], t) for name, t in result.stitch.state_dict().items())
