"""The configuration: what a YAML file may hold, and the one way to read it.

`read_config` finds every problem it can before anything is started, each with its path in the file,
what it got and what it may be.
"""

from stitch_sweep.config.controls import CLASS_ONLY
from stitch_sweep.config.models import (
    FROM_FACTORY,
    GIVEN,
    Component,
    Config,
    DataConfig,
    Distribution,
    LossConfig,
    LossTerm,
    NetworkConfig,
    NormalisationConfig,
    PairConfig,
    PretrainingConfig,
    ResourcesConfig,
    SamplerConfig,
    SearchConfig,
    StitchConfig,
    TrackingConfig,
    TrainingConfig,
    TrialSettings,
    is_file,
    label,
    trial_settings,
    weights_kind,
)
from stitch_sweep.config.paths import look_up, replaced
from stitch_sweep.config.reading import parse_value, read_config, read_yaml, to_yaml

__all__ = [
    "CLASS_ONLY",
    "FROM_FACTORY",
    "GIVEN",
    "Component",
    "Config",
    "DataConfig",
    "Distribution",
    "LossConfig",
    "LossTerm",
    "NetworkConfig",
    "NormalisationConfig",
    "PairConfig",
    "PretrainingConfig",
    "ResourcesConfig",
    "SamplerConfig",
    "SearchConfig",
    "StitchConfig",
    "TrackingConfig",
    "TrainingConfig",
    "TrialSettings",
    "is_file",
    "label",
    "look_up",
    "parse_value",
    "read_config",
    "read_yaml",
    "replaced",
    "to_yaml",
    "trial_settings",
    "weights_kind",
]
