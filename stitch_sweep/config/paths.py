"""Dotted paths into nested settings: `training.optimizer.lr`, `networks[0].width`."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

from stitch_sweep.config.yaml_text import DEEPEST
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.problems import show


def replaced(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested settings with dotted paths replaced, not validated.

    Raises:
        InputError: a path leads nowhere.
    """
    tree = copy.deepcopy(dict(base))
    for path in sorted(overrides, key=lambda path: path.count(".")):
        assign(tree, path, overrides[path])
    return tree


def look_up(tree: Any, path: str) -> Any:
    """The value at a dotted path.

    Raises:
        KeyError: there is none.
    """
    for part in path.split("."):
        if not isinstance(tree, Mapping):
            raise KeyError(path)
        tree = tree[part]
    return tree


def assign(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path in place, making the sections that lead there.

    Raises:
        InputError: the path leads through a value, or past the end of a list.
    """
    # `networks[0].width` as messages write it, or `networks.0.width`.
    parts = re.sub(r"\[(\d+)\]", r".\1", path).split(".")
    if len(parts) > DEEPEST:
        raise InputError(f"{show(path)}: leads {len(parts)} levels down, and {DEEPEST} is the most")
    node: Any = tree
    for i, part in enumerate(parts):
        last, above = i == len(parts) - 1, ".".join(parts[:i])
        key: Any = part
        if isinstance(node, list):
            if not re.fullmatch(r"\d{1,9}", part) or int(part) >= len(node):
                raise InputError(
                    f"{path}: {above} is a list of {len(node)}; its entries are named "
                    f"{above}[0] and so on"
                )
            key = int(part)
        elif not isinstance(node, dict):
            raise InputError(f"{path}: {above} is {show(node)}, nothing can be below it")
        elif not last and node.get(part) is None:
            node[part] = {}
        elif not last and parts[:i] == ["loss"] and isinstance(node[part], int | float):
            node[part] = {"weight": node[part]}  # what a number after a loss's name stands for
        if last:
            node[key] = value
        else:
            node = node[key]


def as_list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one: raw settings may be anything."""
    return value if isinstance(value, list) else []


def first_twice(values: list[Any]) -> str | None:
    """The first value that a list has twice, as JSON."""
    return next((json.dumps(v) for i, v in enumerate(values) if v in values[:i]), None)
