"""Section `training`: how a stitch is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PlainValidator, SerializerFunctionWrapHandler, model_serializer

from stitch_sweep.config.defaults import without_defaults
from stitch_sweep.config.optimizer import OptimizerConfig
from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.core.bounds import LARGEST_COUNT, BatchSize, Epochs, Positive
from stitch_sweep.core.problems import mismatch, refusal
from stitch_sweep.core.registry import Options

Recipe = Literal["fast", "thorough", "paper"]
RECIPE_NAMES: tuple[Recipe, ...] = get_args(Recipe)
Coordinates = Literal["raw", "whitened"]


def _check_batch_size(value: Any) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if value != "auto" and not (is_number and 1 <= value <= LARGEST_COUNT):
        raise refusal(mismatch(f"'auto' or a whole number from 1 to {LARGEST_COUNT}", value))
    return value


def _check_interval(value: Any) -> float | int | None:
    """Return a share of an epoch (a float between 0 and 1), a number of steps (an int), or None."""
    is_steps = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value is None or (is_steps and value <= LARGEST_COUNT):
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    expected = "a share of an epoch (above 0, below 1) or a whole number of steps from 1"
    raise refusal(mismatch(expected, value))


Interval = Annotated[
    float | int | None,
    PlainValidator(
        _check_interval,
        json_schema_input_type=Annotated[float, Field(gt=0, lt=1)] | Positive | None,
    ),
]
"""A share of an epoch, or a number of steps."""
FrozenMode = Literal["exact", "fused", "compiled"]
"""How the frozen rest of the receiver runs in training steps; see `networks.fast`."""
Precision = Literal["float32", "bfloat16"]
"""Number format of the frozen rest of the receiver in training steps."""


class TrainingConfig(Options):
    """Training of a stitch.

    ```yaml
    training: {recipe: paper, epochs: 8, optimizer: {lr: 0.1}}
    ```

    A `recipe` sets keys of `training`, and `stitch.start`, unless you set them:

    - `fast`: 1 epoch of Adam (betas 0.8 and 0.95), a linear schedule without warm-up, `batch_size:
      auto`, `start: auto`, `coordinates: whitened`, `evaluate_every: 0.5`, `keep: best`, `frozen: fused`
      and `train_metrics: sample`.
    - `thorough`: the settings of `fast`, for 4 epochs.
    - `paper`: the settings of Hernandez et al. 2023, which are 4 epochs of SGD (learning rate 0.01,
      momentum 0.9, weight decay 0.01) in batches of 256. The learning rate warms up over a tenth of the
      steps, then follows a cosine to 0. The initial weights are random, and the stitch of the last step
      is the result.

    A section `optimizer` or `schedule` with a `name` replaces that of the recipe; without a `name`, it
    overrides only the keys that it contains. A crossed or searched recipe replaces the recipe of this
    section. [Recipes and convergence](../explanation/recipes.md) gives the reasons for the recipes.

    With `coordinates: whitened` and without `lr`, Adam and its variants use the loss's default learning
    rate times min(1, 27 / D). D is the number of inputs of each output channel of the stitch.

    Values of `frozen` and `precision` other than the defaults can speed up a training step, but change
    its rounding. `frozen: compiled` needs a compiler (C++ for CPUs, C for GPUs), and compiles for some
    seconds per receiver layer and batch size. `precision: bfloat16` is refused on devices without
    bfloat16 instructions (on x86 CPUs: AVX512-BF16 or AMX). Even with these instructions, it can be
    slower than `float32` if there are few channels. `stitch-sweep assemble` allows only the defaults of
    `frozen` and `precision`.
    """

    recipe: Recipe | None = Field(
        default=None,
        description="Recipe for the keys that you don't set, described above.",
    )
    keys_beside_recipe: list[str] | None = Field(
        default=None,
        description="Keys that you set in addition to a recipe. Stitch Sweep writes this list to "
        "`config.resolved.yml`; leave it out of your own file. Default: none.",
    )
    epochs: Epochs = Field(
        default=4, description="Number of epochs. 0 evaluates the stitch with its initial weights."
    )
    batch_size: Annotated[
        BatchSize,
        PlainValidator(_check_batch_size, json_schema_input_type=Positive | Literal["auto"]),
    ] = Field(
        default=64,
        description="Number of images in a batch. `auto`: the largest power of 2 from 16 to 256 with "
        "which an epoch has at least 140 steps (16 below 4,449 training images, 256 from 35,585).",
    )
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="Optimizer.")
    schedule: ScheduleConfig = Field(
        default=ScheduleConfig(), description="Learning-rate schedule."
    )
    log_every: Positive | None = Field(
        default=None,
        description="Number of steps between two `train` rows of the trajectory. Each epoch also ends "
        "with such a row. Default: a quarter of an epoch.",
    )
    coordinates: Coordinates = Field(
        default="raw",
        description="Coordinates of the sender's channels in which the weights are trained: `raw`, or "
        "`whitened` (centered, decorrelated and scaled). The key affects only the stitches `paper`, "
        "`conv1x1`, `conv3x3` and `linear`. The stored weights always refer to raw channels.",
    )
    keep: Literal["last", "best"] = Field(
        default="last",
        description="Stitch that is the result: that of the last step, or the one with the best "
        "validation value, which may be the initial stitch.",
    )
    patience: Positive | None = Field(
        default=None,
        description="Number of successive validations without a better value after which the training "
        "stops. `keep` and `patience` compare the validation accuracy if the loss contains `task`, and "
        "the validation loss otherwise. Default: never.",
    )
    evaluate_every: Interval = Field(
        default=None,
        description="Share of an epoch, or number of steps, between two validations within an epoch. "
        "Every epoch also ends with a validation. Default: once an epoch.",
    )
    frozen: FrozenMode = Field(
        default="exact",
        description="How the receiver's frozen layers run in training steps. `exact`: unchanged. "
        "`fused`: as a copy with BatchNorm folded into convolutions, in memory format channels last. "
        "`compiled`: as the same copy, compiled. Evaluation always uses the unchanged network.",
    )
    precision: Precision = Field(
        default="float32",
        description="Number format of the receiver's frozen layers in training steps. Stitch, "
        "optimizer, losses, logits and evaluation are always float32.",
    )

    train_metrics: Literal["all", "sample"] = Field(
        default="all",
        description="Training images on which the final stitch is measured: all, or a sample as large "
        "as the validation split.",
    )

    @model_serializer(mode="wrap")
    def _drop_unused_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Beside a recipe every key is kept, because its default isn't the recipe's value.
        keys = ("keys_beside_recipe",) if self.recipe else _LATER_KEYS
        return without_defaults(self, handler(self), keys)

    def is_from_recipe(self, key: str) -> bool:
        """Return whether a recipe sets a key of this section, and the configuration doesn't."""
        return self.recipe is not None and f"training.{key}" not in (self.keys_beside_recipe or ())

    def all_values(self) -> dict[str, Any]:
        """Return the settings as plain data, with the keys that `model_dump` drops."""
        return {
            **{key: getattr(self, key) for key in _LATER_KEYS},
            **self.model_dump(mode="json"),
        }


_LATER_KEYS = (
    *("recipe", "keys_beside_recipe", "coordinates", "keep", "patience", "evaluate_every"),
    *("frozen", "precision", "train_metrics"),
)
