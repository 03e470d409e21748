"""Printing for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stitch_sweep.core.console import Terminal
from stitch_sweep.core.untrusted import printable

stdout = Terminal()
stderr = Terminal(stderr=True)


def print_json(content: Any, **options: Any) -> None:
    """Print one JSON value on a line of standard output; `options` go to `json.dumps`."""
    print(json.dumps(content, **options))


def print_unwrapped(text: str) -> None:
    """Print lines at their full width, control characters escaped."""
    print("\n".join(printable(line) for line in text.split("\n")))


def print_result(result: Mapping[str, Any], as_json: bool) -> None:
    """Print the figures of one training: as JSON, or one figure per line."""
    if as_json:
        print_json(result)
        return
    width = max(24, *(len(name) + 2 for name in result))
    for name, value in result.items():
        text = f"{value:.4f}" if isinstance(value, float) else value
        stdout.print(f"{name:<{width}}{text}")


def print_summary(summary: Mapping[str, Any], as_json: bool, *, indent: str, width: int) -> None:
    """Print a summary: as JSON, or one entry per line with its `notes` at the end.

    Args:
        summary: plain data; `notes` is a list of sentences.
        as_json: whether to print JSON.
        indent: text before each entry.
        width: columns of the entries' names.
    """
    if as_json:
        print_json(summary)
        return
    for name, value in summary.items():
        if name != "notes":
            stdout.print(f"{indent}{name.replace('_', ' '):<{width}}{value}")
    for note in summary["notes"]:
        stdout.print(f"note: {note}", soft_wrap=True)
