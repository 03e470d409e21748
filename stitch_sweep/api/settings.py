"""Settings that a caller gives as configuration keys, and networks that stand in a configuration."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stitch_sweep.config.networks import FROM_FACTORY
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.networks.external import in_memory

TRIAL_SECTIONS = (*TrialSettings.model_fields, "seed", "pretraining", "resources", "zoo")
"""Sections of a configuration that every training uses."""


def expand_settings(
    settings: Mapping[str, Any], allowed: Collection[str], function: str
) -> dict[str, Any]:
    """Turn keyword arguments into sections of a configuration.

    `recipe="fast"` stands for `training={"recipe": "fast"}`.

    Args:
        settings: the keyword arguments.
        allowed: the sections that the function takes.
        function: its name in messages.

    Raises:
        InputError: a section is unknown, or a recipe is given twice.
    """
    problems = [
        f"{function}: no setting is named {key!r}: {nearest(key, [*allowed, 'recipe'])}"
        for key in settings
        if key not in (*allowed, "recipe")
    ]
    if problems:
        raise InputError(*problems)
    tree = {key: to_plain(value) for key, value in settings.items()}
    recipe = tree.pop("recipe", None)
    if recipe is not None:
        training = tree.setdefault("training", {})
        if not isinstance(training, dict) or "recipe" in training:
            raise InputError(f"{function}: give either recipe or training with the key recipe")
        training["recipe"] = recipe
    return tree


def to_plain(value: Any) -> Any:
    """Copy a value as the plain data that a YAML file contains: paths as text, tuples as lists."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    return copy.deepcopy(value)


def network_section(network: nn.Module | Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the entry of a network in the section `networks`.

    Args:
        network: a module, of which this process keeps a copy; or the entry itself without its name.
        name: the network's name.

    Raises:
        InputError: it is neither.
    """
    if isinstance(network, Mapping):
        return {**to_plain(network), "name": name}
    return {
        "name": name,
        "source": "python",
        "factory": in_memory.keep(network, f"network {name!r}"),
        "weights": FROM_FACTORY,
    }
