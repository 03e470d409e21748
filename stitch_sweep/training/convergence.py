"""Decide whether a training has converged: see `docs/method.md`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.stitches.base import AffineStitch
from stitch_sweep.stitches.least_squares import LeastSquares
from stitch_sweep.stitches.shapes import channel_axis

EXCESS_ALLOWED = 0.05
"""A stitch with a closed form has converged when its error is at most this share above the optimum."""
EXCESS_FLOOR = 0.01
"""Lower limit of the optimum in this comparison, in units of the expected variance. An optimum may be
0."""
PLATEAU = 0.05
"""Largest change of the training loss that is expected from a further quarter of the training at the full
learning rate, as a share of the first interval's loss. For stitches without a closed form."""
FLAT_ACCURACY = 0.05
"""Largest change of the validation accuracy that is expected from the same further quarter. For stitches
that are trained for the task and whose training loss still falls."""
LEAST_IMAGES = 1000
"""Smallest number of validation images with which an accuracy is precise enough for that decision."""


@dataclass(frozen=True)
class LearningCurve:
    """The course of a training.

    Attributes:
        losses: mean training loss of every interval between two validations.
        accuracies: validation accuracy at the end of every interval.
        steps: number of optimizer steps at the end of every interval.
        total_steps: optimizer steps of the whole training, whose schedule it is; a training that
            stopped early has taken fewer.
        schedule: the learning-rate schedule.
    """

    losses: Sequence[float]
    accuracies: Sequence[float]
    steps: Sequence[int]
    total_steps: int
    schedule: ScheduleConfig


def has_settled(curve: LearningCurve, *, by_accuracy: bool) -> bool | None:
    """Decide whether further training at the full learning rate would change little.

    A schedule that decays to 0 flattens every curve. To correct for this, the change from the third to
    the last quarter of the training is divided by the mean learning-rate factor of the steps between the
    middles of these quarters.

    Args:
        curve: the training.
        by_accuracy: whether a constant validation accuracy is enough. The training loss may fall forever,
            because a stitch memorizes its training images, but a matrix shows the accuracy on other
            images.

    Returns:
        None for a training of fewer than four intervals.
    """
    quarter = len(curve.losses) // 4
    if quarter == 0:
        return None

    def change(values: Sequence[float]) -> float:
        return fmean(values[-quarter:]) - fmean(values[-2 * quarter : -quarter])

    middle = curve.steps[-quarter - 1]
    half = max(1, (curve.steps[-1] - middle) // 2)
    factor = fmean(
        curve.schedule.factor(step, curve.total_steps)
        for step in range(middle - half, middle + half)
    )
    # Use the absolute change, because a loss that still rises hasn't settled either.
    if abs(change(curve.losses)) <= PLATEAU * abs(curve.losses[0]) * factor:
        return True
    if not by_accuracy:
        return False
    return abs(change(curve.accuracies)) <= FLAT_ACCURACY * factor


@torch.no_grad()
def compare_with_optimum(
    stitch: AffineStitch,
    loss: float,
    expected_variance: float | None,
    fit: LeastSquares | None,
    pairs: Iterable[tuple[Tensor, Tensor]],
) -> dict[str, Any]:
    """Compare the training error of an affine stitch with the least-squares optimum.

    Args:
        stitch: a stitch for which `has_optimum` holds.
        loss: its mean loss `mse` on the training images.
        expected_variance: variance of the expected representation, as in `LossContext`.
        fit: least squares accumulated over the training set; None to accumulate them now.
        pairs: the training set, (input, expected representation); read if there is no fit.

    Returns:
        `train_relative_mse`, `optimal_relative_mse` and `excess` in units of the expected variance, and
        `converged`.
    """
    if fit is None:
        fit = LeastSquares(stitch)
        for x, y in pairs:
            fit.add(x, y)
    channels = stitch.receiver[channel_axis(stitch.receiver)]
    variance = expected_variance or 1.0
    optimum = fit.optimum() / variance
    reached = loss / channels
    excess = reached - optimum
    return {
        "train_relative_mse": reached,
        "optimal_relative_mse": optimum,
        "excess": excess,
        "converged": excess <= EXCESS_ALLOWED * max(optimum, EXCESS_FLOOR),
    }
