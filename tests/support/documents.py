"""The code in Markdown documents."""

from __future__ import annotations

import re


def code_blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """Return language and code of each fenced block in one of the languages, in order."""
    return re.findall(rf"^```({'|'.join(languages)})\n(.*?)^```$", text, re.M | re.S)
