"""The page of the Python API: the public names, from `stitch_sweep/__init__.py`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import stitch_sweep
from reference_pages.docstrings import read_docstring
from reference_pages.markdown import page, table

_TEXT = Path(__file__).with_name("api_text.md")


def make_page() -> str:
    """Make the page: a table of the names, the written text with its script, and a block per name."""
    locations = stitch_sweep._LOCATIONS
    rows = []
    for name in sorted(stitch_sweep.__all__, key=lambda name: (name[0].isupper(), name)):
        module, _, attribute = locations[name].rpartition(".")
        public = getattr(import_module(module), attribute)
        rows.append((f"[`ss.{name}`](#{locations[name]})", read_docstring(public).summary))
    first, *others = _TEXT.read_text().strip().split("\n\n", 1)
    blocks = [f"::: {locations[name]}" for name in sorted(locations, key=str.lower)]
    return page(
        "Python API",
        first,
        table(["name", "purpose"], rows),
        *others,
        "## Signatures",
        "The site shows the signature and the docstring of each name here. In Python, `help(ss.stitch)` "
        "prints the same.",
        *blocks,
        source="the docstrings of `stitch_sweep`",
    )
