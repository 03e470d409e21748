"""Formulas of the documents: TeX in a `math` block, or inline as $`...`$, becomes MathML.

Both spellings are those of GitHub's Markdown. MathML needs no script and no request to another host.
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor


def format_block(source: str, *_: Any, **__: Any) -> str:
    """Convert the TeX of a `math` block; see the custom fences of pymdownx.superfences."""
    return convert(source.strip(), display="block")


class _InlineFormula(InlineProcessor):
    def handleMatch(self, match: re.Match[str], data: str) -> tuple[str, int, int]:  # noqa: N802
        formula = self.md.htmlStash.store(convert(match[1], display="inline"))
        return formula, match.start(0), match.end(0)


class _Formulas(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        # Before inline code, whose priority is 190.
        md.inlinePatterns.register(_InlineFormula(r"\$`(.+?)`\$", md), "formula", 200)


def on_config(config: Any) -> Any:
    """Add the formulas to the Markdown extensions (a hook of MkDocs)."""
    fences = config.mdx_configs["pymdownx.superfences"]["custom_fences"]
    fences.append({"name": "math", "class": "math", "format": format_block})
    config.markdown_extensions.append(_Formulas())
    return config
