"""Section `pretraining`: how the zoo trains networks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from stitch_sweep.config.filling import fill_in
from stitch_sweep.config.optimizer import OptimizerConfig
from stitch_sweep.config.schedule import ScheduleConfig
from stitch_sweep.core.bounds import Epochs, Positive
from stitch_sweep.core.registry import Options

PRETRAINING_RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "plain": {},
        # Chosen by time to accuracy; benchmarks/pretraining.py measures it. It has no flips, because a
        # mirrored digit or letter is another one: `augment` is the user's to set.
        "fast": {
            "epochs": 6,
            "batch_size": 128,
            "optimizer": {
                "name": "sgd",
                "lr": 0.2,
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 2e-3,
            },
            "schedule": {"name": "linear", "warmup": 0.2},
            "precision": "bfloat16",
            "memory_format": "channels_last",
            "label_smoothing": 0.1,
            "whiten_stem": True,
        },
    }
)
"""The values of every recipe: for keys that the user doesn't set."""


class PretrainingConfig(Options):
    """Training of the networks in the zoo.

    ```yaml
    pretraining: {recipe: fast, optimizer: {lr: 0.1}, augment: alternating_flip}
    ```

    On CIFAR-10, `recipe: fast` reached a higher accuracy than 15 epochs of SGD with momentum, in less
    than a third of the CPU time ([measurements](../evidence/benchmarks.md#pretraining)). The recipe
    gives these values to the keys that you don't set:

    ```yaml
    pretraining:
      epochs: 6
      batch_size: 128
      optimizer: {name: sgd, lr: 0.2, momentum: 0.9, nesterov: true, weight_decay: 0.002}
      schedule: {name: linear, warmup: 0.2}
      precision: bfloat16
      memory_format: channels_last
      label_smoothing: 0.1
      whiten_stem: true
    ```

    - An `optimizer` or a `schedule` with a `name` replaces that of the recipe; without a `name`, it
      changes only the keys that it contains.
    - The zoo identifies a network by these values, not by the name of the recipe. If you write the
      values instead of `recipe: fast`, the zoo finds the same network.
    - For photographs, add `augment: alternating_flip`, which mirrors each image in every other epoch.
      The recipe doesn't contain this key, because mirroring changes the meaning of digits and letters.
    - `precision: bfloat16` can be faster than `float32` on GPUs, and on CPUs with AMX or AVX-512 BF16
      instructions. On other CPUs, it can be slower.
    """

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)
    """The keys that the user sets, as raw values."""

    recipe: Literal["plain", "fast"] = Field(
        default="plain",
        description="Values of the keys that you don't set: their defaults (`plain`), or the values "
        "listed above (`fast`).",
    )
    epochs: Annotated[Epochs, Field(ge=1)] = Field(default=10, description="Number of epochs.")
    batch_size: Positive = Field(default=128, description="Number of images in a batch.")
    optimizer: OptimizerConfig = Field(
        default=OptimizerConfig(name="sgd", lr=0.1), description="Optimizer, as in `training`."
    )
    schedule: ScheduleConfig = Field(
        default=ScheduleConfig(), description="Learning-rate schedule, as in `training`."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Number format of convolutions, matrix products and activations. Weights, "
        "BatchNorm statistics, loss and optimizer are always float32.",
    )
    memory_format: Literal["contiguous", "channels_last"] = Field(
        default="contiguous", description="Memory layout of images and activations in training."
    )
    augment: Literal["none", "crop_flip", "alternating_flip", "crop_alternating_flip"] | None = (
        Field(
            default=None,
            description="Augmentation in pretraining only. An alternating flip mirrors each image in "
            "every other epoch. Default: `data.augment`.",
        )
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of each label that is spread evenly over all classes."
    )
    whiten_stem: bool = Field(
        default=False,
        description="Whether the first convolution starts with filters that whiten image patches.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _apply_recipe(
        cls, values: Any, handler: ModelWrapValidatorHandler[PretrainingConfig]
    ) -> PretrainingConfig:
        if not isinstance(values, Mapping):
            return handler(values)
        name = values.get("recipe", "plain")
        recipe = PRETRAINING_RECIPES.get(name, {}) if isinstance(name, str) else {}
        section = handler(fill_in(values, recipe))
        section._given = copy.deepcopy(dict(values))
        return section

    @model_serializer(mode="wrap")
    def _drop_unused_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Descriptions of sweeps, and hashes of them, must not change when a version adds a key.
        hidden = () if any(key in self._given for key in _LATER_KEYS) else _LATER_KEYS
        return {key: value for key, value in handler(self).items() if key not in hidden}

    def __eq__(self, other: object) -> bool:
        """Return whether all values are equal, whoever set them."""
        return isinstance(other, PretrainingConfig) and dict(self) == dict(other)

    def overridden(self, section: PretrainingConfig) -> PretrainingConfig:
        """Return this section with the keys that another one sets, and the recipe of the result.

        Args:
            section: a network's section; values that its recipe gave to other keys don't count.

        Raises:
            pydantic.ValidationError: the keys don't fit together.
        """
        return PretrainingConfig.model_validate({**self._given, **section._given})

    def training_values(self) -> dict[str, Any]:
        """Return the values that determine a network's weights, as plain data.

        They don't name the recipe, and lack newer keys that have their defaults, so equal trainings have
        equal values. `augment` is left out, because `data.augment` may decide it.
        """
        unused = {key for key in _LATER_KEYS if getattr(self, key) == self._default(key)}
        return self.model_dump(mode="json", exclude={"recipe", "augment", *unused})

    @classmethod
    def _default(cls, key: str) -> Any:
        return cls.model_fields[key].default


_LATER_KEYS = (
    *("recipe", "precision", "memory_format", "augment"),
    *("label_smoothing", "whiten_stem"),
)
