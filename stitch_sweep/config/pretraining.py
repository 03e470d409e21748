"""Section `pretraining`: how the zoo trains networks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stitch_sweep.config.optimizer import OptimizerConfig
from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.core.bounds import Epochs, Positive
from stitch_sweep.core.registry import Options


class PretrainingConfig(Options):
    """Training of the networks in the zoo."""

    epochs: Annotated[Epochs, Field(ge=1)] = Field(default=10, description="Number of epochs.")
    batch_size: Positive = Field(default=128, description="Number of images in a batch.")
    optimizer: OptimizerConfig = Field(
        default=OptimizerConfig(name="sgd", lr=0.1), description="Optimizer, as in `training`."
    )
    schedule: ScheduleConfig = Field(
        default=ScheduleConfig(), description="Learning-rate schedule, as in `training`."
    )
