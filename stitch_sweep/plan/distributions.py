"""The search space in Optuna's terms: distributions, suggested values and directions."""

from __future__ import annotations

import json
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection

from stitch_sweep.config.root import Config
from stitch_sweep.config.search import Distribution

# Every module that creates an Optuna study imports this one: no line per study on the terminal.
optuna.logging.set_verbosity(optuna.logging.WARNING)


def optuna_directions(config: Config) -> list[StudyDirection]:
    """Return the direction of each objective."""
    directions = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    return [directions[mode] for mode in config.search.goals.values()]


def to_optuna(distribution: Distribution) -> BaseDistribution:
    """Convert a distribution of the configuration."""
    if distribution.type == "categorical":
        # Optuna stores scalars only; any other value travels as JSON text.
        return CategoricalDistribution([_to_scalar(c) for c in distribution.choices or []])
    assert distribution.low is not None
    assert distribution.high is not None
    if distribution.type == "int":
        step = int(distribution.step or 1)
        low, high = int(distribution.low), int(distribution.high)
        return IntDistribution(low, high, log=distribution.log, step=step)
    return FloatDistribution(
        distribution.low, distribution.high, log=distribution.log, step=distribution.step
    )


def encode_value(distribution: Distribution, value: Any) -> Any:
    """Convert a value of a distribution to the form that Optuna stores."""
    return _to_scalar(value) if distribution.type == "categorical" else value


def suggest_value(trial: optuna.Trial, path: str, distribution: Distribution) -> Any:
    """Ask an Optuna trial to suggest the value of a path."""
    converted = to_optuna(distribution)
    if isinstance(converted, CategoricalDistribution):
        raw = trial.suggest_categorical(path, converted.choices)
        return next(c for c in distribution.choices or [] if _to_scalar(c) == raw)
    if isinstance(converted, IntDistribution):
        return trial.suggest_int(
            path, converted.low, converted.high, log=converted.log, step=converted.step
        )
    assert isinstance(converted, FloatDistribution)
    return trial.suggest_float(
        path, converted.low, converted.high, log=converted.log, step=converted.step
    )


def _to_scalar(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, sort_keys=True)
