"""A name alone is short for a section with this name and default options.

| short | long |
|---|---|
| `data: digits` | `data: {name: digits}` |
| `stitch: conv1x1` | `stitch: {name: conv1x1}`; also in `parts` |
| `loss: task` | `loss: {task: 1.0}` |
| `cross: {loss: [task, mse]}` | `cross: {loss: [{task: 1.0}, {mse: 1.0}]}`; also for stitches |

The last short form works in `choices`, `when` and `enqueue`, too. `loss: [task, mse]` is refused,
because it is ambiguous: a sum is `loss: {task: 1.0, mse: 1.0}`, a comparison is `cross: {loss: [task,
mse]}`. Results, records and `config.resolved.yml` contain the long forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SECTIONS = ("data", "stitch", "loss")
"""Sections that a name may stand for."""


def lengthen(section: str, value: Any) -> Any:
    """Return the long form of a section's raw value; a value without a short form is returned unchanged.

    Example:
        >>> lengthen("stitch", "conv1x1"), lengthen("loss", "task")
        ({'name': 'conv1x1'}, {'task': 1.0})
    """
    if section not in SECTIONS or not isinstance(value, str):
        return value
    return {value: 1.0} if section == "loss" else {"name": value}


def lengthen_sections(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw configuration, or {dotted path: value}, with the long forms of its sections."""
    return {key: lengthen(key, value) for key, value in tree.items()}


def lengthen_search(search: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw section `search` with the long forms of all sections that it crosses or searches."""
    result = dict(search)
    if isinstance(cross := search.get("cross"), Mapping):
        result["cross"] = {path: _lengthen_each(path, values) for path, values in cross.items()}
    if isinstance(space := search.get("space"), Mapping):
        result["space"] = {path: _lengthen_distribution(path, item) for path, item in space.items()}
    if isinstance(enqueue := search.get("enqueue"), list):
        result["enqueue"] = [
            lengthen_sections(item) if isinstance(item, Mapping) else item for item in enqueue
        ]
    return result


def _lengthen_each(path: str, values: Any) -> Any:
    return [lengthen(path, value) for value in values] if isinstance(values, list) else values


def _lengthen_distribution(path: str, distribution: Any) -> Any:
    if not isinstance(distribution, Mapping):
        return distribution
    result = dict(distribution)
    if "choices" in result:
        result["choices"] = _lengthen_each(path, result["choices"])
    if isinstance(when := result.get("when"), Mapping):
        result["when"] = {
            parent: _lengthen_each(parent, values)
            if isinstance(values, list)
            else lengthen(parent, values)
            for parent, values in when.items()
        }
    return result
