"""Section `search`: crossed factors, searched settings, and the sampler."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stitch_sweep.config.paths import first_repeated
from stitch_sweep.core.bounds import (
    LARGEST_COUNT,
    MOST_CHOICES,
    MOST_COMBINATIONS,
    Above0,
    Number,
    Positive,
)
from stitch_sweep.core.problems import Location, errors_at, mismatch, refusal
from stitch_sweep.core.registry import Options


class Distribution(Options):
    """The values from which Optuna chooses, for one dotted path of the configuration.

    `when` makes the setting conditional: it is sampled only if all given paths have one of the given
    values.
    """

    type: Literal["float", "int", "categorical"] = Field(description="Type of the values.")
    low: Number | None = Field(default=None, description="Smallest value, for `float` and `int`.")
    high: Number | None = Field(default=None, description="Largest value, for `float` and `int`.")
    log: bool = Field(
        default=False,
        description="Whether equal ratios are equally likely, for `float` and `int`. `low` must be "
        "above 0.",
    )
    step: Above0 | None = Field(
        default=None,
        description="Distance between two values, for `float` and `int`, not with `log`. Default: 1 for "
        "`int`, continuous for `float`.",
    )
    choices: Annotated[list[Any], Field(max_length=MOST_CHOICES)] | None = Field(
        default=None,
        description="Allowed values, for `categorical`. A value may be a whole section.",
    )
    when: dict[str, Any] = Field(
        default_factory=dict,
        description="Condition: dotted paths with a value, or a list of values. If it does not hold, the "
        "value of the configuration is used.",
    )

    @model_validator(mode="after")
    def _validate(self) -> Distribution:
        if problems := list(self._find_problems()):
            raise errors_at("distribution", problems)
        return self

    def _find_problems(self) -> Iterator[tuple[Location, str]]:
        for path, values in self.when.items():
            if values == []:
                yield ("when", path), "expected a value or a list of values, got an empty list"
            elif isinstance(values, list) and len(values) > MOST_CHOICES:
                yield ("when", path), mismatch(f"at most {MOST_CHOICES} in the list", values)
        if self.type == "categorical":
            yield from self._categorical_problems()
        else:
            yield from self._range_problems()

    def _categorical_problems(self) -> Iterator[tuple[Location, str]]:
        for key in ("low", "high", "log", "step"):
            if getattr(self, key):
                yield (key,), "not allowed for categorical; use choices"
        if not self.choices:
            yield ("choices",), "expected a list of at least one choice"
        elif repeated := first_repeated(self.choices):
            yield ("choices",), f"contains {repeated} twice"

    def _range_problems(self) -> Iterator[tuple[Location, str]]:
        if self.choices is not None:
            yield ("choices",), f"not allowed for {self.type}; use low and high"
        for key in ("low", "high"):
            if getattr(self, key) is None:
                yield (key,), f"is missing; {self.type} needs it"
        for key in ("low", "high", "step"):
            value = getattr(self, key)
            if self.type == "int" and value is not None and value != int(value):
                yield (key,), mismatch("a whole number, because type is int", value)
        if self.low is None or self.high is None:
            return
        if self.low > self.high:
            yield (), f"low is {self.low:g}, which is above high, {self.high:g}"
        steps = (self.high - self.low) / (self.step or 1)
        if (self.step or self.type == "int") and steps > LARGEST_COUNT:
            yield ("step",), f"makes {steps:g} steps from low to high, {LARGEST_COUNT} at most"
        if self.log and self.low <= 0:
            yield ("low",), mismatch("a number above 0, because log is true", self.low)
        if self.log and self.step is not None:
            yield ("step",), "not allowed with log: true"

    def representatives(self) -> list[Any]:
        """Return values that represent all values in checks: every choice, or both ends of the range."""
        if self.type == "categorical":
            return list(self.choices or [])
        cast = int if self.type == "int" else float
        return [cast(self.low or 0), cast(self.high or 0)]


class SamplerConfig(BaseModel):
    """A sampler: `tpe`, `random`, `grid`, or another sampler class of Optuna, with its arguments.

    The package `plan`, which imports Optuna, checks the name and the arguments.
    """

    model_config = ConfigDict(extra="allow", strict=True)
    name: str = Field(
        default="tpe",
        description="`tpe`, `random`, `grid`, or the name of another sampler class of Optuna. All "
        "further keys are arguments of the class.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the sampler's class."""
        return dict(self.model_extra or {})


class SearchConfig(Options):
    """Crossed settings (run in every cell) and searched settings (sampled by Optuna)."""

    cross: dict[str, Annotated[list[Any], Field(min_length=1, max_length=MOST_CHOICES)]] = Field(
        default_factory=dict,
        description="Factors: dotted paths with lists of values. Every value is run in every cell, "
        "in a separate study.",
    )
    space: dict[str, Distribution] | None = Field(
        default=None,
        description="Searched settings: dotted paths with distributions, or the path of a file that "
        "contains them.",
    )
    samples: Positive = Field(
        default=1, description="Number of trials of a study. `grid` determines the number itself."
    )
    sampler: SamplerConfig = Field(
        default=SamplerConfig(),
        description="Sampler: a name, or a section with `name` and arguments.",
    )
    metric: Literal["val_accuracy", "val_loss"] = Field(
        default="val_accuracy",
        description="Metric that the search optimizes and that selects the best trial.",
    )
    mode: Literal["max", "min"] = Field(
        default="max",
        description="Direction of `metric`. It follows from `metric` and can't contradict it.",
    )
    objectives: dict[str, Literal["max", "min"]] = Field(
        default_factory=dict,
        description="Two or more metrics with `max` or `min`, which Optuna optimizes instead of "
        "`metric`.",
    )
    parallel_per_study: Positive = Field(
        default=1,
        description="Number k of trials that a study runs at a time. The sampler learns from them when "
        "all k have ended. Useful for few pairs on many machines.",
    )

    @field_validator("space", mode="before")
    @classmethod
    def _validate_space(cls, value: Any) -> Any:
        if value is None or isinstance(value, Mapping):
            return value
        expected = "a file's path, or dotted paths with their distributions"
        raise refusal(mismatch(expected, value))

    @model_validator(mode="before")
    @classmethod
    def _derive_mode(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "mode" not in values:
            return {**values, "mode": "min" if values.get("metric") == "val_loss" else "max"}
        return values

    @model_validator(mode="after")
    def _validate_combination(self) -> SearchConfig:
        problems: list[tuple[Location, str]] = []
        if self.samples > 1 and not self.space:
            problem = (
                f"is {self.samples}, but there is no space to sample from; "
                "use repeats to run the same settings with other seeds"
            )
            problems.append((("samples",), problem))
        if self.combinations > MOST_COMBINATIONS:
            sizes = " x ".join(f"{len(values)} ({path})" for path, values in self.cross.items())
            problem = f"has {sizes} = {self.combinations} combinations, {MOST_COMBINATIONS} at most"
            problems.append((("cross",), problem))
        if len(self.objectives) == 1:
            problem = "needs at least two metrics; for a single metric, use search.metric"
            problems.append((("objectives",), problem))
        mode = "min" if self.metric == "val_loss" else "max"
        if self.mode != mode:
            problems.append((("mode",), mismatch(f"{mode!r} for {self.metric}", self.mode)))
        if problems:
            raise errors_at("search", problems)
        return self

    @property
    def distributions(self) -> dict[str, Distribution]:
        """The search space; empty without a search."""
        return self.space or {}

    @property
    def combinations(self) -> int:
        """Number of combinations of crossed values."""
        return math.prod(len(values) for values in self.cross.values())

    @property
    def goals(self) -> dict[str, Literal["max", "min"]]:
        """Metrics that Optuna optimizes, {metric: mode}: the objectives, or `metric`."""
        return self.objectives or {self.metric: self.mode}
