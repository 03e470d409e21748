"""Notebooks of the documents: NAME.ipynb becomes the page NAME.md of the site, without being executed.

Pages link to the notebook, which GitHub shows; on the site these links lead to the page.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Any

from mkdocs.structure.files import File


def to_markdown(notebook: dict[str, Any], name: str) -> str:
    """Return a notebook's cells as Markdown, with a link to the notebook below the first heading."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    heading, _, rest = "\n\n".join(parts).partition("\n")
    return f"{heading}\n\n[Download this page as a notebook]({name}).\n{rest}\n"


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each notebook (a hook of MkDocs)."""
    for file in list(files):
        path = PurePosixPath(file.src_uri)
        if path.suffix == ".ipynb":
            text = to_markdown(json.loads(file.content_string), path.name)
            files.append(File.generated(config, str(path.with_suffix(".md")), content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to a notebook lead to its page, except for that on the page itself."""
    if page.file.generated_by:
        return markdown
    return re.sub(r"\]\(([^()\s:]+)\.ipynb\)", r"](\1.md)", markdown)
