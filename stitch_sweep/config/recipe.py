"""Recipes: `training.recipe` gives values to the keys that a configuration doesn't set.

All functions work on raw settings, before validation: nested mappings with the keys `stitch`, `loss` and
`training`, of which any may be missing or have a wrong type. Validation reports such faults.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from stitch_sweep.config.filling import fill_in
from stitch_sweep.config.paths import assign, flatten
from stitch_sweep.config.training import TrainingConfig

TRAINING_RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "fast": {
            "training": {
                "epochs": 1,
                "batch_size": "auto",
                "optimizer": {"name": "adam", "betas": [0.8, 0.95]},
                "schedule": {"name": "linear", "warmup": 0.0},
                "coordinates": "whitened",
                "keep": "best",
                "patience": None,
                "evaluate_every": 0.5,
                "frozen": "fused",
                "precision": "float32",
                "train_metrics": "sample",
            },
            "stitch": {"start": "auto"},
        },
        "thorough": {
            "training": {
                "epochs": 4,
                "batch_size": "auto",
                "optimizer": {"name": "adam", "betas": [0.8, 0.95]},
                "schedule": {"name": "linear", "warmup": 0.0},
                "coordinates": "whitened",
                "keep": "best",
                "patience": None,
                "evaluate_every": 0.5,
                "frozen": "fused",
                "precision": "float32",
                "train_metrics": "sample",
            },
            "stitch": {"start": "auto"},
        },
        # The settings of Hernandez et al. 2023, as in experiments/cifar10/r1111/config.yml.
        "paper": {
            "training": {
                "epochs": 4,
                "batch_size": 256,
                "optimizer": {
                    "name": "sgd",
                    "lr": 0.01,
                    "momentum": 0.9,
                    "weight_decay": 0.01,
                },
                "schedule": {"name": "warmup_cosine", "warmup": 0.1},
                "coordinates": "raw",
                "keep": "last",
                "patience": None,
                "evaluate_every": None,
                "frozen": "exact",
                "precision": "float32",
                "train_metrics": "all",
            },
            "stitch": {"start": "random"},
        },
    }
)
"""The values of every recipe."""

MARK = "keys_beside_recipe"
"""Key of `training` that names the keys that are set beside a recipe."""


def with_recipe(values: Any, *, marked: bool) -> Any:
    """Return raw settings with the values of their recipe in all keys that they don't set.

    Args:
        values: raw settings. Their `keys_beside_recipe`, if given, says which of the keys are set by
            the user. A key whose value was changed after it was written counts as set, too.
        marked: whether the result names the keys that are set, in `keys_beside_recipe`. A mark is needed
            where `Config.trial_settings` may replace the recipe later.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("training", {}), Mapping):
        return values
    training = values.get("training", {})
    if not marked and training.get("recipe") is None and MARK not in training:
        return values
    own = _own_settings(values)
    resolved = _with_section(dict(values), _apply_recipe(own))
    training = resolved["training"]
    training.pop(MARK, None)
    if marked:
        training[MARK] = sorted(_own_paths(own))
    return resolved


def without_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return resolved settings with only those values that are set beside the recipe, and its name.

    Args:
        values: settings as `with_recipe` marks them.
    """
    own = _own_settings(values)
    pruned = copy.deepcopy(dict(values))
    pruned["training"] = own["training"]
    stitch = dict(values["stitch"])
    if "start" not in own["stitch"]:
        stitch.pop("start", None)
    return {**pruned, "stitch": stitch}


def can_choose_recipe(values: Any) -> bool:
    """Return whether a raw configuration sets, crosses or searches `training.recipe`."""
    if not isinstance(values, Mapping):
        return False
    training, search = values.get("training"), values.get("search")
    choices = [training]
    if isinstance(search, Mapping):
        for key in ("cross", "space"):
            paths = search.get(key)
            if not isinstance(paths, Mapping):
                continue
            if "training.recipe" in paths:
                return True
            given = paths.get("training")
            given = given.get("choices") if isinstance(given, Mapping) else given
            choices += given if isinstance(given, list) else []
    return any(isinstance(x, Mapping) and x.get("recipe") is not None for x in choices)


def _own_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe, and the keys of `training` and `stitch` that are set beside it."""
    training = dict(values.get("training", {}))
    stitch = values.get("stitch")
    start = {"start": stitch["start"]} if isinstance(stitch, Mapping) and "start" in stitch else {}
    marks = training.pop(MARK, None)
    given = {"training": training, "stitch": start}
    if not isinstance(marks, list):
        return copy.deepcopy(given)
    own = _select(given, set(marks))
    filled = {"stitch": {"start": "random"}, **_apply_recipe(own)}
    try:
        filled["training"] = TrainingConfig.model_validate(filled["training"]).all_values()
    except ValidationError:
        return copy.deepcopy(given)
    expected = dict(flatten(filled))
    changed = {p for p, value in _leaves(given) if p not in expected or expected[p] != value}
    return _select(given, {*marks, *changed})


def _select(given: Mapping[str, Any], paths: set[str]) -> dict[str, Any]:
    """Return the recipe and the values at some paths."""
    selected: dict[str, Any] = {"training": {}, "stitch": {}}
    if "recipe" in given["training"]:
        selected["training"]["recipe"] = given["training"]["recipe"]
    for path, value in _leaves(given):
        if path in paths:
            assign(selected, path, copy.deepcopy(value))
    return selected


def _leaves(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Iterate over the keys that a recipe may set, as (dotted path, value); sections key by key."""
    for path, value in flatten(given):
        if path not in ("training.recipe", f"training.{MARK}"):
            yield path, value


def _own_paths(own: Mapping[str, Any]) -> Iterator[str]:
    return (path for path, _ in _leaves(own))


def _apply_recipe(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `training` and, where it is set, `stitch.start`, with a recipe's values in missing keys."""
    name = own["training"].get("recipe")
    recipe = TRAINING_RECIPES.get(name, {}) if isinstance(name, str) else {}
    training, stitch = (fill_in(own[key], recipe.get(key, {})) for key in ("training", "stitch"))
    return {"training": training, **({"stitch": stitch} if stitch else {})}


def _with_section(values: dict[str, Any], filled: Mapping[str, Any]) -> dict[str, Any]:
    values["training"] = dict(filled["training"])
    stitch = values.get("stitch", {})
    if "stitch" in filled and isinstance(stitch, Mapping):
        values["stitch"] = {**stitch, **filled["stitch"]}
    return values
