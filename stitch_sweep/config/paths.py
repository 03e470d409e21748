"""`--set a.b=value` overrides one key for one command; repeat it for several keys.

The value is YAML: `--set training.epochs=1`, `--set 'loss={mse: 1.0}'`. Entries of lists are counted
from 0: `--set networks[1].width=4`. Crossed and searched settings use the same dotted paths.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from stitch_sweep.config.yaml_text import DEEPEST
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.problems import show


def flatten(tree: Any, prefix: str = "", *, keep_empty: bool = False) -> Iterator[tuple[str, Any]]:
    """Iterate over the leaves of nested settings, as (dotted path, value), in their order.

    Every value that is not a mapping is a leaf; lists and None are leaves.

    Args:
        tree: nested mappings, or a leaf.
        prefix: path of `tree`; empty for the root.
        keep_empty: whether an empty mapping below the root is a leaf; otherwise it is skipped.

    Example:
        >>> dict(flatten({"optimizer": {"name": "sgd", "lr": None}, "epochs": 4}, "training"))
        {'training.optimizer.name': 'sgd', 'training.optimizer.lr': None, 'training.epochs': 4}
    """
    if not isinstance(tree, Mapping) or (keep_empty and prefix and not tree):
        yield prefix, tree
        return
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        yield from flatten(value, path, keep_empty=keep_empty)


def replaced(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy of nested settings with the values at dotted paths replaced.

    A whole section is replaced before the values in it. The result is not validated.

    Raises:
        InputError: a path does not exist.
    """
    tree = copy.deepcopy(dict(base))
    for path in sorted(overrides, key=lambda path: path.count(".")):
        assign(tree, path, overrides[path])
    return tree


def look_up(tree: Any, path: str) -> Any:
    """Return the value at a dotted path.

    Raises:
        KeyError: there is no value.
    """
    for part in path.split("."):
        if not isinstance(tree, Mapping):
            raise KeyError(path)
        tree = tree[part]
    return tree


def assign(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path in place; missing sections on the way are created.

    Raises:
        InputError: the path leads through a value, or past the end of a list.
    """
    # Two spellings are allowed: `networks[0].width`, as messages write it, and `networks.0.width`.
    parts = re.sub(r"\[(\d+)\]", r".\1", path).split(".")
    if len(parts) > DEEPEST:
        raise InputError(f"{show(path)}: has {len(parts)} levels; at most {DEEPEST} are allowed")
    node: Any = tree
    for i, part in enumerate(parts):
        is_last, parent = i == len(parts) - 1, ".".join(parts[:i])
        key: Any = part
        if isinstance(node, list):
            if not re.fullmatch(r"\d{1,9}", part) or int(part) >= len(node):
                raise InputError(
                    f"{path}: {parent} is a list of {len(node)}; its entries are named "
                    f"{parent}[0] and so on"
                )
            key = int(part)
        elif not isinstance(node, dict):
            raise InputError(f"{path}: {parent} is {show(node)}, so it has no keys below it")
        elif not is_last and node.get(part) is None:
            node[part] = {}
        elif not is_last and parts[:i] == ["loss"] and isinstance(node[part], int | float):
            # `loss: {task: 1.0}` is short for `loss: {task: {weight: 1.0}}`.
            node[part] = {"weight": node[part]}
        if is_last:
            node[key] = value
        else:
            node = node[key]


def as_list(value: Any) -> list[Any]:
    """Return the value if it is a list, else an empty list; raw settings may have any type."""
    return value if isinstance(value, list) else []


def first_repeated(values: list[Any]) -> str | None:
    """Return the first value that occurs twice in a list, as JSON; None without repetition."""
    return next((json.dumps(v) for i, v in enumerate(values) if v in values[:i]), None)
