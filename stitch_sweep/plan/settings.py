"""The settings that a study's search may choose: one for each stitch, or one for each loss."""

from __future__ import annotations

from collections.abc import Iterator

from stitch_sweep.config.root import Config
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


def _settings_per(config: Config, study: Study, section: str) -> Iterator[TrialSettings]:
    for chosen in combinations(config, study, only=section):
        yield config.trial_settings({**study.factors, **chosen})
