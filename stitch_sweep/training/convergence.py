"""Decide whether a training was long enough: see `docs/explanation/recipes.md`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from stitch_sweep.stitches.base import AffineStitch
from stitch_sweep.stitches.least_squares import LeastSquares
from stitch_sweep.stitches.shapes import channel_axis
from stitch_sweep.training.learning_curve import LearningCurve

EXCESS_ALLOWED = 0.05
"""A stitch whose optimum is known has converged when its error is at most this share above it."""
EXCESS_FLOOR = 0.01
"""Lower limit of the optimum in this comparison, in units of the expected variance or of a similarity. An
optimum may be 0."""
CERTAIN = 5.0
"""Smallest fall of the training loss, in standard errors, from which something can be concluded."""
SMALL_SHARE, LARGE_SHARE = 0.15, 0.25
"""Share of the whole fall of the training loss that lies in the last doubling of the learning time, up to
which a training has converged, and above which it has not. Between the two limits, `converged` is
empty. The share is 0.55 while a loss falls in proportion to time, however slowly."""
SMALL_GAIN, LARGE_GAIN = 0.02, 0.1
"""The same limits for the change of the accuracy in the last doubling."""
SMALL_FALL, LARGE_FALL = 0.02, 0.05
"""The same limits for the fall of the loss, as a share of the loss, for a training without the task."""
LOSS_FLOOR = 0.01
"""Lower limit of the loss in this comparison, as a share of its first window. A loss may go to 0."""
LEAST_IMAGES = 1000
"""Smallest number of validation images whose accuracy is precise enough for this decision."""


def has_settled(
    curve: LearningCurve,
    *,
    by_accuracy: bool,
    validation_images: int = 0,
    guessing: float = math.inf,
) -> bool | None:
    """Decide whether another doubling of a training's learning time would change little.

    What a doubling gains shrinks from one to the next once a training has passed its fastest part, so
    the last one bounds the next one. A training that is still before that part looks flat where it is
    slow, but the last doubling then has a large share of all that it ever gained.

    Args:
        curve: the training.
        by_accuracy: whether to judge by the accuracy, which a matrix shows. The training loss may fall
            forever, because a stitch memorizes its training images.
        validation_images: number of validation images. Their accuracy is used if it is precise enough,
            else that of the training images, which memorizing raises.
        guessing: training loss of a network whose predictions don't depend on the image. A training
            that is no better has not converged.

    Returns:
        None if the training is too short, has learned nothing, or is at the border.
    """
    losses = curve.losses()
    if losses is None:
        return None
    if losses[-1] >= guessing:
        return False
    fall = losses[-2] - losses[-1]
    accuracies = curve.accuracies()
    if by_accuracy and accuracies is not None:
        if validation_images >= LEAST_IMAGES:
            accuracies = curve.validation_accuracies() or accuracies
        # A falling accuracy is no sign of convergence either.
        change, small, large = abs(accuracies[-1] - accuracies[-2]), SMALL_GAIN, LARGE_GAIN
    else:
        scale = max(abs(losses[-1]), LOSS_FLOOR * abs(losses[0]))
        change = abs(fall) / scale if scale else 0.0
        small, large = SMALL_FALL, LARGE_FALL
    learned = losses[0] - losses[-1]
    if learned <= CERTAIN * curve.loss_error():
        return False if change > large else None
    if change > large or fall > LARGE_SHARE * learned:
        return False
    return True if change <= small and fall <= SMALL_SHARE * learned else None


def is_near_optimum(reached: float, optimum: float) -> bool:
    """Return whether an error is at most 5 % above the smallest possible one."""
    return reached - optimum <= EXCESS_ALLOWED * max(optimum, EXCESS_FLOOR)


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
    fit = fit or fit_pairs(stitch, pairs)
    channels = stitch.receiver[channel_axis(stitch.receiver)]
    optimum = fit.optimum() / (expected_variance or 1.0)
    reached = loss / channels
    return {
        "train_relative_mse": reached,
        "optimal_relative_mse": optimum,
        "excess": reached - optimum,
        "converged": is_near_optimum(reached, optimum),
    }


def fit_pairs(stitch: AffineStitch, pairs: Iterable[tuple[Tensor, Tensor]]) -> LeastSquares:
    """Accumulate least squares over pairs of (input, expected representation)."""
    fit = LeastSquares(stitch)
    for x, y in pairs:
        fit.add(x, y)
    return fit
