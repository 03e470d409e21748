"""Section `training`: how a stitch is trained."""

from __future__ import annotations

from pydantic import Field

from stitch_sweep.config.optimizer import OptimizerConfig
from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.core.bounds import Epochs, Positive
from stitch_sweep.core.registry import Options


class TrainingConfig(Options):
    """Training of a stitch."""

    epochs: Epochs = Field(
        default=4, description="Number of epochs. 0 evaluates the stitch with its initial weights."
    )
    batch_size: Positive = Field(default=64, description="Number of images in a batch.")
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="Optimizer.")
    schedule: ScheduleConfig = Field(
        default=ScheduleConfig(), description="Learning-rate schedule."
    )
    log_every: Positive | None = Field(
        default=None,
        description="Number of steps between two rows of the trajectory. Default: four rows per epoch.",
    )
