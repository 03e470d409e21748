"""Losses: what a stitch is trained for. The same functions measure.

A loss is registered as a class built from a `LossContext`; called with `LossInputs` it gives a scalar.
"""

from __future__ import annotations

from stitch_sweep.losses.alignment import FunctionalLatentAlignment
from stitch_sweep.losses.base import (
    Calibrations,
    CombinedLoss,
    Invariance,
    Loss,
    LossContext,
    LossInputs,
)
from stitch_sweep.losses.calibration import Calibration, ChannelMap
from stitch_sweep.losses.cca import CCA, PWCCA, SVCCA
from stitch_sweep.losses.cka import CKA
from stitch_sweep.losses.correlation import Correlation
from stitch_sweep.losses.cosine import Cosine
from stitch_sweep.losses.measures import MEASURES, SimilarityMeasures
from stitch_sweep.losses.mse import MeanSquaredError
from stitch_sweep.losses.task import SoftTask, Task
from stitch_sweep.losses.teaching import Lesson, cannot_teach, chance_level, teaching_warnings

__all__ = [
    "CCA",
    "CKA",
    "MEASURES",
    "PWCCA",
    "SVCCA",
    "Calibration",
    "Calibrations",
    "ChannelMap",
    "CombinedLoss",
    "Correlation",
    "Cosine",
    "FunctionalLatentAlignment",
    "Invariance",
    "Lesson",
    "Loss",
    "LossContext",
    "LossInputs",
    "MeanSquaredError",
    "SimilarityMeasures",
    "SoftTask",
    "Task",
    "cannot_teach",
    "chance_level",
    "teaching_warnings",
]
