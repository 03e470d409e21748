"""Section `training`: how a stitch is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stitch_sweep.config.optimizer import OptimizerConfig
from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.core.bounds import Epochs, Positive
from stitch_sweep.core.registry import Options

FrozenMode = Literal["exact", "fused", "compiled"]
"""How the frozen rest of the receiver runs in training steps; see `networks.fast`."""
Precision = Literal["float32", "bfloat16"]
"""Number format of the frozen rest of the receiver in training steps."""


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
    # These two are excluded if they have their defaults, so that older experiments keep their hashes.
    frozen: Annotated[FrozenMode, Field(exclude_if=lambda mode: mode == "exact")] = Field(
        default="exact",
        description="How the frozen rest of the receiver runs in training steps: as it is; as a copy "
        "with BatchNorm folded into convolutions and channels last; or this copy, compiled. Evaluation "
        "always uses the network as it is.",
    )
    precision: Annotated[Precision, Field(exclude_if=lambda name: name == "float32")] = Field(
        default="float32",
        description="Number format of the frozen rest of the receiver in training steps. Stitch, "
        "optimizer, losses and logits are float32, and evaluation is too.",
    )
