"""Optuna's samplers: the check of `search.sampler`, and construction under a seed."""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler

from stitch_sweep.config.root import Config
from stitch_sweep.config.search import SamplerConfig
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.problems import argument_problems, dotted, show
from stitch_sweep.core.seeding import derive
from stitch_sweep.plan.distributions import optuna_directions

_SHORT_NAMES = {"tpe": "TPESampler", "random": "RandomSampler"}
# The suggestions of these samplers depend on no result.
_RESULT_FREE = {"RandomSampler", "QMCSampler"}
# Packages that Optuna imports at the first suggestion, which is too late for a message.
_REQUIRED_PACKAGES = {"CmaEsSampler": "cmaes"}
SAMPLER_CLASSES = {
    name: cls
    for name, cls in vars(optuna.samplers).items()
    if inspect.isclass(cls)
    and issubclass(cls, BaseSampler)
    and "seed" in inspect.signature(cls).parameters
    # These two enumerate a space and stop the study. `grid` does the same here, with conditions.
    and name not in {"GridSampler", "BruteForceSampler"}
}
"""Name -> class of every sampler that `search.sampler.name` may contain."""

_PLAIN = re.compile(r"(int|float|bool|str|dict\[str, Any\])( \| None)?")
"""Annotations of the sampler arguments that a YAML file can contain."""


def check_sampler(config: Config) -> None:
    """Check that the sampler exists, takes its arguments, and fits the search space.

    Raises:
        InputError: it doesn't.
    """
    sampler = config.search.sampler
    if sampler.name == "grid":
        if sampler.options:
            raise InputError("search.sampler: grid takes no arguments")
        for path, distribution in config.search.distributions.items():
            if distribution.type == "float" and distribution.step is None:
                raise InputError(
                    f"search.space.{path}: grid can't enumerate a float without a step; "
                    "give a step or list the choices"
                )
        return
    cls = SAMPLER_CLASSES.get(_SHORT_NAMES.get(sampler.name, sampler.name))
    if cls is None:
        names = {*_SHORT_NAMES, "grid", *SAMPLER_CLASSES}
        raise InputError(
            f"search.sampler.name: no sampler is named {show(sampler.name)}: "
            f"{nearest(sampler.name, names)}"
        )
    hidden = {
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if name == "seed" or not _PLAIN.fullmatch(str(parameter.annotation))
    }
    problems = [
        f"{dotted(('search', 'sampler', *place))}: {reason}"
        for place, reason in argument_problems(cls, sampler.options, hidden)
    ]
    if problems:
        raise InputError(*problems)
    try:
        built = build_sampler(sampler, 0)
    except (TypeError, ValueError) as error:
        raise InputError(f"search.sampler: {sampler.name}: {error}") from None
    package = _REQUIRED_PACKAGES.get(cls.__name__)
    if package is not None and importlib.util.find_spec(package) is None:
        raise InputError(
            f"search.sampler: {sampler.name} needs the package {package}: pip install {package}"
        )
    try:
        # Only the first suggestion shows that a sampler supports one objective only.
        optuna.create_study(directions=optuna_directions(config), sampler=built).ask(
            {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
        )
    except ValueError as error:
        if not config.search.objectives:
            raise
        raise InputError(
            f"search.sampler: {sampler.name} can't search {len(config.search.objectives)} objectives "
            f"at once ({error}); tpe and NSGAIISampler can"
        ) from None


def build_sampler(sampler: SamplerConfig, seed: int, sweep_seed: int = 0) -> BaseSampler:
    """Construct a configured sampler.

    Args:
        sampler: the configuration's sampler, not `grid`.
        seed: of the suggestion.
        sweep_seed: of the sweep; a quasi-Monte Carlo sequence is the same for all of its suggestions.
    """
    cls: Any = _sampler_class(sampler)
    if sampler.name == "QMCSampler":
        # One sequence for the sweep. Settings outside of the sequence are drawn under their own seed.
        options = {"independent_sampler": RandomSampler(seed=seed % 2**32), **sampler.options}
        sequence: BaseSampler = cls(**options, seed=derive(sweep_seed, "sequence") % 2**32)
        return sequence
    built: BaseSampler = cls(**sampler.options, seed=seed % 2**32)
    return built


def count_startup_trials(sampler: SamplerConfig) -> float:
    """Count the start-up trials of a study, which the sampler draws without any results."""
    cls = _sampler_class(sampler)
    if cls.__name__ in _RESULT_FREE:
        return math.inf
    parameters = inspect.signature(cls).parameters
    for name in ("n_startup_trials", "population_size"):
        if name in parameters:
            return float(sampler.options.get(name, parameters[name].default))
    return 0


def describe_startup(config: Config) -> str | None:
    """Return a note for the user if the sampler never gets past its random start-up trials."""
    if not config.search.distributions or config.search.sampler.name == "grid":
        return None
    startup = count_startup_trials(config.search.sampler)
    if startup == math.inf:
        return None
    if config.search.samples <= startup:
        return (
            f"{config.search.samples} samples per study don't exceed the {startup:g} random start-up "
            f"trials of {config.search.sampler.name}: this is random search"
        )
    return None


def _sampler_class(sampler: SamplerConfig) -> Any:
    return SAMPLER_CLASSES[_SHORT_NAMES.get(sampler.name, sampler.name)]
