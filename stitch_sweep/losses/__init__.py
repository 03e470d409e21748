"""Losses: what a stitch is trained for. The same functions measure.

A loss is registered as a class built from a `LossContext`; called with `LossInputs` it gives a scalar.
"""

from __future__ import annotations

from stitch_sweep.losses.base import CombinedLoss, Loss, LossContext, LossInputs
from stitch_sweep.losses.mse import MeanSquaredError
from stitch_sweep.losses.task import Task

__all__ = ["CombinedLoss", "Loss", "LossContext", "LossInputs", "MeanSquaredError", "Task"]
