"""Safe embedding of data, scripts and texts in HTML, and the page's templates."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from stitch_sweep.report.tables.table import Table
from stitch_sweep.report.wording import pluralize


def encode_json(value: Any) -> str:
    """Encode JSON for a `<script>` element: no text in it can end the element.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def escape_script(source: str) -> str:
    """Escape JavaScript for a `<script>` element, so that its texts can't end the element."""
    return source.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def render_sentence(text: str) -> Markup:
    """Escape a sentence; `commands` between backticks become code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


@cache
def templates() -> Environment:
    """Return the environment of the page's templates."""
    environment = Environment(
        loader=PackageLoader("stitch_sweep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["is_table"] = lambda item: isinstance(item, Table)
    environment.filters["pluralize"] = pluralize
    environment.filters["sentence"] = render_sentence
    return environment


def template_source(name: str) -> str:
    """Return a file of the templates folder as it stands."""
    loader = templates().loader
    assert loader is not None
    return loader.get_source(templates(), name)[0]
