"""The settings that a study's search may choose: one for each stitch, loss, or way of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stitch_sweep.config.root import Config
from stitch_sweep.config.training import TrainingConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.plan.space import combinations
from stitch_sweep.storage.study import Study


def settings_per_stitch(config: Config, study: Study) -> Iterator[TrialSettings]:
    """Iterate over a study's settings, one for each stitch that its search may choose."""
    return _settings_per(config, study, "stitch")


def settings_per_loss(config: Config, study: Study) -> Iterator[TrialSettings]:
    """Iterate over a study's settings, one for each loss that its search may choose."""
    return _settings_per(config, study, "loss")


def first_settings(config: Config, study: Study) -> TrialSettings:
    """Return a study's settings under the first stitch that its search may choose."""
    return next(settings_per_stitch(config, study))


def possible_trainings(
    config: Config, factors: Mapping[str, Any], *keys: str
) -> Iterator[TrainingConfig]:
    """Iterate over sections `training` of a study in which some keys have every value that they may have.

    Args:
        config: the configuration.
        factors: the study's values of crossed factors.
        keys: keys of `training`. A range is represented by both of its ends.
    """
    overrides: list[dict[str, Any]] = [{}]
    # A searched section or recipe sets these keys, too.
    for path in ("training", "training.recipe", *(f"training.{key}" for key in keys)):
        if (distribution := config.search.distributions.get(path)) is not None:
            overrides += [{path: value} for value in distribution.representatives()]
    for override in overrides:
        yield config.trial_settings({**factors, **override}).training


def _settings_per(config: Config, study: Study, section: str) -> Iterator[TrialSettings]:
    for chosen in combinations(config, study, only=section):
        yield config.trial_settings({**study.factors, **chosen})
