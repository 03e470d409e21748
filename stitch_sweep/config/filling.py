"""Fill in the keys that a section of the configuration doesn't set with the values of a recipe."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

_SECTIONS = ("optimizer", "schedule")
"""Keys that are sections: a recipe fills in their keys one by one."""


def fill_in(values: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return raw values with those of a recipe in all keys that they don't set.

    An optimizer or a schedule that is given with its name replaces the recipe's; without a name, its
    keys replace single keys of the recipe's.

    Args:
        values: of a section, before validation.
        recipe: values by key.
    """
    recipe = copy.deepcopy(dict(recipe))
    filled = {**recipe, **values}
    for key in _SECTIONS:
        given = values.get(key)
        if key in recipe and isinstance(given, Mapping) and "name" not in given:
            filled[key] = {**recipe[key], **given}
    return filled
