"""Docstrings as Markdown: summary, text, labeled facts, and the sections of the Google style."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from typing import Any

FACTS = (
    *("Use", "Assumes", "Range", "Invariant to", "Calibration", "Joins", "Parameters"),
    *("Multiply-adds", "Cost", "Flat for", "Layers", "Short names", "Adds", "Shows", "Limits"),
    "Source",
)
"""Labels of the paragraphs that become rows of a table of facts, such as `Source: ...`."""

_SECTION = re.compile(r"(Args|Returns|Raises|Yields|Example|Attributes|Class attributes):")
_FACT = re.compile(rf"({'|'.join(FACTS)}): ", re.DOTALL)
_ITEM = re.compile(r"(\w+): ")


@dataclass
class Docstring:
    """The parts of a docstring.

    Attributes:
        summary: the first paragraph.
        text: the other paragraphs, as Markdown.
        facts: text of each labeled paragraph.
        arguments: description of each entry of `Args` and `Attributes`.
    """

    summary: str = ""
    text: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)


def read_docstring(documented: Any) -> Docstring:
    """Read the docstring of an object, or a text in its form."""
    text = inspect.cleandoc(documented) if isinstance(documented, str) else None
    result = Docstring()
    section = ""
    for paragraph in _split(text if text is not None else inspect.getdoc(documented) or ""):
        first = paragraph.partition("\n")[0]
        if heading := _SECTION.fullmatch(first):
            section = heading[1]
            paragraph = inspect.cleandoc("\n" + paragraph.partition("\n")[2])
            if section in ("Args", "Attributes"):
                result.arguments |= _read_items(paragraph)
        elif section and first.startswith("    "):
            if section in ("Args", "Attributes"):
                result.arguments |= _read_items(inspect.cleandoc("\n" + paragraph))
        else:
            section = ""
            _add(result, paragraph)
    return result


def _add(result: Docstring, paragraph: str) -> None:
    if fact := _FACT.match(paragraph):
        result.facts[fact[1]] = _join(paragraph[fact.end() :])
    elif not result.summary:
        result.summary = _join(paragraph)
    elif paragraph.startswith(("```", "|")):
        result.text.append(paragraph)
    elif paragraph.startswith("- "):
        result.text.append("\n".join(_join(item) for item in re.split(r"\n(?=- )", paragraph)))
    elif all(line.startswith("    ") for line in paragraph.splitlines() if line):
        block = inspect.cleandoc("\n" + paragraph)
        result.text.append(f"```text\n{block}\n```")
    else:
        result.text.append(_join(paragraph))


def _split(text: str) -> list[str]:
    """Split a text into paragraphs; a fenced block is one paragraph."""
    paragraphs: list[list[str]] = [[]]
    is_fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
            if is_fenced and paragraphs[-1]:
                paragraphs.append([])
        if line.strip() or is_fenced:
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return ["\n".join(lines).rstrip() for lines in paragraphs if lines]


def _read_items(text: str) -> dict[str, str]:
    items: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if not line.startswith(" ") and (item := _ITEM.match(line)):
            name = item[1]
            items[name] = [line[item.end() :]]
        elif name:
            items[name].append(line.strip())
    return {name: _join("\n".join(lines)) for name, lines in items.items()}


def _join(paragraph: str) -> str:
    """Join the lines of a paragraph."""
    return " ".join(line.strip() for line in paragraph.splitlines())
