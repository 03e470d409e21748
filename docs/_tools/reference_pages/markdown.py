"""Parts of Markdown pages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stitch_sweep.config.yaml_text import dump_flow

_IMAGES = Path(__file__).resolve().parents[2] / "images" / "reference"
_PAIR = "Two ResNets (`resnet1111` of width 8, seeds 0 and 1)"


def page(title: str, *blocks: str, source: str) -> str:
    """Join the blocks of a page; the first paragraph ends with the sentence about its origin."""
    first, *others = [block.strip("\n") for block in blocks if block]
    origin = f"This page is generated from {source}."
    return "\n\n".join([f"# {title}", f"{first} {origin}", *others]) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table; empty without rows."""
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines])


def facts(rows: dict[str, str]) -> str:
    """Format labeled facts as a table of two columns."""
    return table(
        ["property", "value"], [(f"**{name}**", text) for name, text in rows.items() if text]
    )


def picture(kind: str, name: str, title: str, shown: str, of: str = _PAIR) -> str:
    """Return the section with the picture of a page, which `docs/_tools/pictures.py` draws.

    Args:
        kind: folder of the page.
        name: name of the page.
        title: the picture in words, for those who don't see it.
        shown: a sentence that says what the numbers are.
        of: the networks.

    Raises:
        FileNotFoundError: nobody has drawn the picture.
    """
    if not (_IMAGES / kind / f"{name}.png").exists():
        raise FileNotFoundError(f"{kind}/{name}.png: run docs/_tools/pictures.py")
    return (
        f"## Example\n\n![{title}](../../images/reference/{kind}/{name}.png)\n\n"
        f"{of} on handwritten digits, one run. {shown}"
    )


def code(value: Any) -> str:
    """Format a value of a configuration as YAML in a code span."""
    return f"`{json.dumps(value) if isinstance(value, str) and not value else dump_flow(value)}`"


def alternatives(words: Sequence[str]) -> str:
    """Join words as a list with "or"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def anchor(heading: str) -> str:
    """Return the anchor of a heading, which MkDocs and GitHub make in the same way for our headings."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text.replace("\n", " ")) or " "
