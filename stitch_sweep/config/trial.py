"""Settings of one trial, and short names of their values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from stitch_sweep.config.loss import LossConfig
from stitch_sweep.config.recipe import with_recipe
from stitch_sweep.config.shorthand import lengthen_sections
from stitch_sweep.config.stitch import StitchConfig
from stitch_sweep.config.training import TrainingConfig
from stitch_sweep.core.registry import Options


class TrialSettings(Options):
    """The sections of a configuration that may differ between trials."""

    stitch: StitchConfig = Field(
        default_factory=StitchConfig, description="Type and options of the stitch."
    )
    loss: LossConfig = Field(
        default_factory=lambda: LossConfig.model_validate({"task": 1.0}),
        description="Training objective: names of losses with weights. A number is short for "
        "`{weight: number}`.",
    )
    training: TrainingConfig = Field(
        default=TrainingConfig(), description="Training of the stitch."
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve_short_forms(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            values = lengthen_sections(values)
        return with_recipe(values, marked=cls._marks_keys(values))

    @classmethod
    def _marks_keys(cls, values: Any) -> bool:
        """Return whether the settings record which keys are set beside a recipe."""
        return False

    def all_values(self) -> dict[str, Any]:
        """Return the settings as plain data, with the keys that `model_dump` drops."""
        values = self.model_dump(include=set(TrialSettings.model_fields))
        return {**values, "training": self.training.all_values()}


def label(value: Any) -> str | int | float | bool:
    """Return the value of a factor or setting as one table cell.

    Example:
        >>> label({"task": 1.0, "mse": 0.5}), label({"name": "mlp", "hidden": 64})
        ('task+0.5*mse', 'mlp(hidden=64)')
    """
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        for section in (LossConfig, StitchConfig):
            try:
                return section.model_validate(value).label
            except ValidationError:
                continue
    return json.dumps(value, sort_keys=True)
