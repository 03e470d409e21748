"""Where a key of a configuration belongs, for a message about a key in the wrong section."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any, get_origin

from pydantic import BaseModel

MOST_PLACES = 3
"""Largest number of places that a message names. A key of more sections, such as `name`, is no hint."""


def find_places(path: str, root: type[BaseModel]) -> list[str]:
    """Find the sections of a configuration that have the last key of a path.

    Args:
        path: where the key was given, as in the example.
        root: model of the whole configuration, or of a part of it.

    Returns:
        Dotted paths, those nearest to the section where the key was given; empty if there are none or too
        many.

    Example:
        >>> find_places("training.lr", Config)
        ['training.optimizer.lr']
    """
    given = re.sub(r"\[\d+\]", "[0]", path).split(".")
    places = [place for place in _paths(root) if place.rpartition(".")[2] == given[-1]]
    nearness = {place: _count_common(place.split("."), given[:-1]) for place in places}
    nearest = [
        place
        for place in places
        if place.split(".") != given and nearness[place] == max(nearness.values())
    ]
    if len(nearest) > 1:
        # A section that is also a section of the root, such as `networks[0].pretraining`.
        repeated = set(_paths(root)) - set(_paths(root, repeated=False))
        nearest = [place for place in nearest if place not in repeated]
    return nearest if len(nearest) <= MOST_PLACES else []


def _count_common(parts: list[str], others: list[str]) -> int:
    """Return the number of equal parts at the beginning."""
    pairs = zip(parts, others, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _paths(root: type[BaseModel], *, repeated: bool = True) -> Iterator[str]:
    """Iterate over the dotted paths of all keys, breadth first; entries of lists have the index 0.

    Args:
        root: model of the whole configuration, or of a part of it.
        repeated: whether to visit sections of sections that are also sections of the root.
    """
    sections = {model for _, model in _sections(root, "")}
    waiting: list[tuple[str, type[BaseModel]]] = [("", root)]
    for prefix, model in waiting:  # grows
        for key in (*model.model_fields, *getattr(model, "further_keys", tuple)()):
            if key != "root":
                yield f"{prefix}{key}"
        for child_prefix, child in _sections(model, prefix):
            if repeated or not prefix or child not in sections:
                waiting.append((child_prefix, child))


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Iterate over the models of a model's fields, each with the prefix of its keys."""
    for key, field in model.model_fields.items():
        child, is_list = find_model(field.annotation, in_mappings=False)
        if child is not None and key != "root":
            yield f"{prefix}{key}{'[0]' if is_list else ''}.", child


def find_model(annotation: Any, *, in_mappings: bool) -> tuple[type[BaseModel] | None, bool]:
    """Return the model in an annotation, and whether it is that of a list's entries.

    Args:
        annotation: of a field.
        in_mappings: whether the model of a mapping's values counts. The user chooses the mapping's keys.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    origin = get_origin(annotation)
    if origin is dict and not in_mappings:
        return None, False
    for argument in getattr(annotation, "__args__", ()):
        model, is_list = find_model(argument, in_mappings=in_mappings)
        if model is not None:
            return model, is_list or origin is list
    return None, False
