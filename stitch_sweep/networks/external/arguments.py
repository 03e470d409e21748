"""Check the arguments that a configuration passes to a library's network."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from stitch_sweep.core.errors import InputError

_LOADING_NAMES = re.compile(
    r"(pretrained(?!_window_size)|checkpoint|weights|cache|download|hub|hf_|url|progress).*|.*_(url|uri|file|dir)"
)
"""Names of arguments with which libraries load weights."""


def check_arguments(
    library: str, arguments: Mapping[str, Any], refused: Collection[str] = ()
) -> None:
    """Check that arguments for a library's network describe only the network.

    Args:
        library: the library's name in messages.
        arguments: arguments by name, from a configuration or a recipe.
        refused: names of further arguments that make this library load something.

    Raises:
        InputError: an argument makes the library load a file or may do so, or is not plain data.
    """
    problems = []
    for place, key, value in _entries("arguments", arguments):
        if key in refused or _LOADING_NAMES.fullmatch(key):
            problems.append(
                f"{place}: is not allowed, because {library} may load a file or an address with it; "
                "weights: takes a file or the name of weights"
            )
        elif isinstance(value, str) and not re.fullmatch(r"[\w+-]*", value):
            problems.append(
                f"{place}: is {value!r}, which may be a file or an address; allowed are numbers, true, "
                "false and words of letters, digits, '_', '+' and '-'"
            )
        elif not (value is None or isinstance(value, str | int | float)):
            problems.append(
                f"{place}: is a {type(value).__name__}, which {library} can't take; allowed are numbers, "
                "true, false, words, and lists and mappings of these"
            )
    if problems:
        raise InputError(*problems)


def _entries(place: str, value: Any, key: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield every plain value in nested mappings and lists: its place, its key, and the value."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _entries(f"{place}.{name}", part, str(name))
        if key:
            yield place, key, None
    elif isinstance(value, list | tuple):
        for k, part in enumerate(value):
            yield from _entries(f"{place}[{k}]", part, key)
        if not value:
            yield place, key, None
    else:
        yield place, key, value
