"""Section `search`: crossed factors, searched settings, the sampler and the scheduler."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from stitch_sweep.config.defaults import without_defaults
from stitch_sweep.config.paths import first_repeated
from stitch_sweep.config.shorthand import lengthen_search
from stitch_sweep.config.stop import StopConfig
from stitch_sweep.core.bounds import (
    LARGEST_COUNT,
    MOST_CHOICES,
    MOST_COMBINATIONS,
    Above0,
    Number,
    Positive,
    Text,
)
from stitch_sweep.core.problems import Location, errors_at, mismatch, refusal
from stitch_sweep.core.registry import Options


class Distribution(Options):
    """The values from which Optuna chooses, for one dotted path.

    ```yaml
    search:
      space:
        training.optimizer.name: {type: categorical, choices: [sgd, adam]}
        training.optimizer.momentum:
          {type: float, low: 0.5, high: 0.99, when: {training.optimizer.name: sgd}}
      samples: 8
    ```

    `when` makes a setting conditional: it is searched only if each path in `when` has one of the given
    values. These paths may be searched, crossed, or fixed in the configuration. If a path in `when` is
    searched, its `type` must be `categorical`. Conditions can't depend on each other in a cycle.
    """

    type: Literal["float", "int", "categorical"] = Field(description="Type of the values.")
    low: Number | None = Field(default=None, description="Smallest value, for `float` and `int`.")
    high: Number | None = Field(default=None, description="Largest value, for `float` and `int`.")
    log: bool = Field(
        default=False,
        description="Whether to sample on a logarithmic scale, for `float` and `int`. `low` must then "
        "be above 0.",
    )
    step: Above0 | None = Field(
        default=None,
        description="Distance between neighboring values, for `float` and `int`. Not allowed with "
        "`log`. Default: 1 for `int`, continuous for `float`.",
    )
    choices: Annotated[list[Any], Field(max_length=MOST_CHOICES)] | None = Field(
        default=None,
        description="Allowed values, for `categorical`. A value may be a whole section.",
    )
    when: dict[str, Any] = Field(
        default_factory=dict,
        description="Condition: dotted paths, each with a value or a list of values. If the condition "
        "doesn't hold, the value of the configuration is used.",
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


class NamedClass(BaseModel):
    """A class of another library: its name, and its arguments as further keys."""

    model_config = ConfigDict(extra="allow", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the class."""
        return dict(self.model_extra or {})


class SamplerConfig(NamedClass):
    """A sampler: `tpe`, `random`, `grid`, or another sampler class of Optuna, with its arguments.

    ```yaml
    sampler: {name: tpe, n_startup_trials: 5}
    ```

    `grid` runs every combination that the `when` conditions allow, so every setting of type `float`
    needs a `step`. The sampler's seed follows from `seed`. The first trials of a study (10 for `tpe`)
    have random settings, the same in all studies. If `samples` isn't above this number, the whole search
    is random, and a note says so.
    """

    name: str = Field(
        default="tpe",
        description="`tpe`, `random`, `grid`, or the name of another sampler class of Optuna. All "
        "further keys are arguments of the class.",
    )


class SchedulerConfig(NamedClass):
    """A scheduler stops trials that fall behind the other trials of their study.

    ```yaml
    search:
      space: {training.optimizer.lr: {type: float, low: 0.001, high: 0.1, log: true}}
      samples: 16
      parallel_per_study: 16
      scheduler: {name: asha, grace_period: 1, reduction_factor: 4}
    ```

    | name | rule | arguments |
    |---|---|---|
    | `asha` | Ray Tune's ASHAScheduler: after `grace_period` epochs, then after `reduction_factor` times as many, and so on, a trial stops if its value is worse than the percentile 1 - 1/`reduction_factor` of the other trials' values | `grace_period` (1), `reduction_factor` (4), `brackets` (1), `max_t` |
    | `hyperband` | Ray Tune's HyperBandScheduler: at each rung of a bracket, the best ceil(n / `reduction_factor`) of n trials continue | `reduction_factor` (3), `max_t` |
    | `median_stopping` | Ray Tune's MedianStoppingRule: a trial stops if its best value is worse than the median of the other trials' mean values so far | `grace_period` (1), `min_samples_required` (3) |
    | `SuccessiveHalvingPruner`, `HyperbandPruner`, `MedianPruner`, `PercentilePruner`, `PatientPruner`, `ThresholdPruner` | Optuna's pruners; step k is the end of epoch k | arguments of the class; `wrapped_pruner` is a name or a section |

    - A scheduler compares values of `metric` after epochs, and its arguments count time in epochs. By
      default, `max_t` is the length of the longest training. A trial that reaches `max_t` trains to its
      end.
    - The trials of a study run in rounds of `parallel_per_study` trials, which wait for each other at
      every epoch with a decision. Except with `grid`, `samples` must be a multiple of
      `parallel_per_study`. `hyperband` needs at least 2 trials in a round.
    - A stopped trial has the status `stopped` and a trajectory, but no test accuracy, predictions or
      stitch.
    - `WilcoxonPruner` is refused, because epochs aren't the paired problem instances that it needs. A
      scheduler together with `objectives` is refused, too. `ThresholdPruner` and `PatientPruner` may
      stop all trials of a study; its cell then has no value.
    """  # noqa: E501

    name: str = Field(
        description="`asha`, `hyperband`, `median_stopping`, or the name of a pruner class of Optuna. "
        "All further keys are arguments of the class; times are in epochs.",
    )


EnqueuedSettings = Annotated[list[dict[str, Any]], Field(min_length=1, max_length=LARGEST_COUNT)]
"""Enqueued settings, each as {dotted path: value}."""


class SearchConfig(Options):
    """Every value of a crossed setting runs in every cell. Optuna samples the values of searched
    settings.

    ```yaml
    search:
      cross: {training.optimizer: [{name: sgd, momentum: 0.9}, {name: adam}]}
      space: {training.optimizer.lr: {type: float, low: 0.001, high: 0.1, log: true}}
      samples: 12
    ```

    - To compare values, cross them: every cell runs each value with the same number of trials, and each
      value has its own matrix. To find the best value, search the setting.
    - Crossed and searched paths begin with `stitch`, `loss` or `training`; only these sections can
      differ between trials. You can't both cross and search a path, but you can cross a section and
      search a key in it. A value may be a whole section, which replaces that of the configuration.
    - `objectives: {val_accuracy: max, val_relative_mse: min}` searches for the Pareto front of several
      objectives; `pareto.csv` lists the trials of the front. Allowed objectives are `val_accuracy`,
      `val_loss`, every `val_<measure>`, `stitch_parameters` and `stitch_multiply_adds`. `metric` still
      selects the best trial of a study.
    - Every study first runs the settings in `enqueue`, each once, and the sampler learns from these
      trials. The settings must be points of the search space. If `enqueue` names the folder of an
      earlier experiment, a study runs the settings of the same study's best trial there. If that
      experiment lacks the study, the settings of the cell's best trial are run; if it lacks the cell,
      the settings that were the best in the largest number of studies. If `enqueue` names a CSV file,
      the header contains dotted paths; an empty field means that the row doesn't set that path.
    - With `share: neighbors`, studies that differ only in the sender's layer form a chain. Each study
      after the first one waits for a study of an adjacent layer, and begins with the best settings of
      that study. So the results of different cells are not independent. A stitch with `start: random`
      starts as the best stitch of that study, if that stitch was stored and has the same type, options
      and input shape. A resume can then add pairs, but neither layers of an existing pair nor `samples`.
    - If several trials of a study have settings with the same effect, only the first is trained. The
      others copy its result, and name the first in `copied_from`.

    [Search and stop early](../guides/search.md) shows how to combine these keys.
    """

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
        description="Metric that the search optimizes, and that selects the best trial of a study.",
    )
    mode: Literal["max", "min"] = Field(
        default="max",
        description="Direction in which `metric` is optimized; `metric` determines this value.",
    )
    objectives: dict[str, Literal["max", "min"]] = Field(
        default_factory=dict,
        description="Two or more metrics with `max` or `min`, which Optuna optimizes instead of "
        "`metric`.",
    )
    parallel_per_study: Positive = Field(
        default=1,
        description="Number k of trials that a study runs in parallel. The sampler learns from these "
        "trials when all k have ended. Larger values are useful for few pairs on many machines.",
    )

    scheduler: SchedulerConfig | None = Field(
        default=None,
        description="Scheduler that stops trials early: a name, or a section with `name` and arguments. "
        "Default: every trial runs to its end.",
    )
    share: Literal["none", "neighbors"] = Field(
        default="none",
        description="`neighbors`: a study begins with the best settings, and if possible the best "
        "stitch, of a study with an adjacent sender layer.",
    )
    enqueue: EnqueuedSettings | Text | None = Field(
        default=None,
        description="Known good settings that every study runs first: a list of {dotted path: value}, "
        "the path of a file with such a list (YAML, JSON or CSV), or the folder of an earlier "
        "experiment.",
    )

    stop: StopConfig | None = Field(
        default=None,
        description="Conditions under which further trials are skipped. Default: every trial runs.",
    )
    time_budget: Above0 | None = Field(
        default=None,
        description="Number of seconds from the start of the first trial, after which no further "
        "trial starts. Running trials are completed, and `--resume` continues with a new budget. "
        "Default: no limit.",
    )
    journal: bool = Field(
        default=True,
        description="Whether a sweep with a search writes `optuna.log`, for optuna-dashboard, while it "
        "runs.",
    )

    @field_validator("space", mode="before")
    @classmethod
    def _validate_space(cls, value: Any) -> Any:
        if value is None or isinstance(value, Mapping):
            return value
        expected = "a file's path, or dotted paths with their distributions"
        raise refusal(mismatch(expected, value))

    @field_validator("enqueue", mode="before")
    @classmethod
    def _validate_enqueue(cls, value: Any) -> Any:
        if value is None or (isinstance(value, str) and value):
            return value
        items = value if isinstance(value, list) else []
        wrong = [item for item in items if not isinstance(item, Mapping) or not item]
        if items and not wrong:
            return value
        expected = "an experiment's folder, a file's path, or a list of {dotted path: value}"
        raise refusal(mismatch(expected, wrong[0] if wrong else value))

    @model_validator(mode="before")
    @classmethod
    def _derive_keys(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        mode = "min" if values.get("metric") == "val_loss" else "max"
        return {"mode": mode, **lengthen_search(values)}

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
        problems += self._scheduler_problems()
        problems += self._beginning_problems()
        problems += self._stop_problems()
        mode = "min" if self.metric == "val_loss" else "max"
        if self.mode != mode:
            problems.append((("mode",), mismatch(f"{mode!r} for {self.metric}", self.mode)))
        if problems:
            raise errors_at("search", problems)
        return self

    def _scheduler_problems(self) -> Iterator[tuple[Location, str]]:
        if self.scheduler is None:
            return
        if not self.space:
            yield (
                ("scheduler",),
                "compares the trials of a study, and without a space a study has only one",
            )
        if self.objectives:
            yield (
                ("scheduler",),
                "can't compare trials by several objectives; remove scheduler or objectives",
            )
        is_grid = self.sampler.name == "grid"
        if not is_grid and self.samples % self.parallel_per_study:
            yield (
                ("samples",),
                f"is {self.samples}, which is not a multiple of parallel_per_study = "
                f"{self.parallel_per_study}; a scheduler compares the trials of whole rounds",
            )

    def _beginning_problems(self) -> Iterator[tuple[Location, str]]:
        if self.enqueue is None:
            return
        if not self.space:
            yield ("enqueue",), "has settings to begin with, but there is no space to search"
        if self.sampler.name == "grid":
            yield ("enqueue",), "has no use with grid, which runs every point of the space"
        if isinstance(self.enqueue, list) and len(self.enqueue) > self.samples:
            yield (
                ("enqueue",),
                f"has {len(self.enqueue)} settings, and a study has only {self.samples} trials "
                "(search.samples)",
            )

    def _stop_problems(self) -> Iterator[tuple[Location, str]]:
        if self.stop is None:
            return
        for key in ("target", "patience"):
            if getattr(self.stop, key) is not None and not self.space:
                yield (
                    ("stop", key),
                    "ends a study before its last trial, and without a space a study has only one",
                )
        if self.stop.patience is not None and self.objectives:
            yield (
                ("stop", "patience"),
                "can't tell whether several objectives improve; remove patience or objectives",
            )
        target = self.stop.target
        if (
            (self.stop.metric or self.metric) == "val_accuracy"
            and target is not None
            and target > 1
        ):
            yield ("stop", "target"), mismatch("a share of images, at most 1", target)
        round_size = self.parallel_per_study
        if self.scheduler is not None and (self.stop.trials or round_size) < round_size:
            yield (
                ("stop", "trials"),
                f"is {self.stop.trials}, and a scheduler compares the trials of whole rounds of "
                f"parallel_per_study = {round_size}",
            )

    @model_serializer(mode="wrap")
    def _drop_unused_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, handler(self), _LATER_KEYS)

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


_LATER_KEYS = ("scheduler", "share", "enqueue", "stop", "time_budget", "journal")
