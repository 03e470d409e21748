"""Write the generated pages of docs/reference/.

python docs/_tools/reference.py           write them
python docs/_tools/reference.py --check   list the pages that differ; status 1 if there are any
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from reference_pages import (
    command_line,
    configuration,
    controls,
    experiment_folder,
    losses,
    measures,
    networks_and_data,
    python_api,
    stitches,
)

FOLDER = Path(__file__).resolve().parents[1] / "reference"
GENERATED_FOLDERS = ("stitches", "losses", "measures", "controls")
"""Folders all of whose pages are generated."""


def make_pages() -> dict[str, str]:
    """Make all pages: text by path below docs/reference/."""
    return {
        "configuration.md": configuration.make_page(),
        "command_line.md": command_line.make_page(),
        "api.md": python_api.make_page(),
        "networks_and_data.md": networks_and_data.make_page(),
        "experiment_folder.md": experiment_folder.make_page(),
        **stitches.make_pages(),
        **losses.make_pages(),
        **measures.make_pages(),
        **controls.make_pages(),
    }


def find_stale(pages: dict[str, str], folder: Path = FOLDER) -> Iterator[str]:
    """Find the pages that differ from those in a folder, are missing in it, or are no longer made."""
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            yield name
    for path in _list_generated(folder):
        if (name := path.relative_to(folder).as_posix()) not in pages:
            yield name


def write(pages: dict[str, str], folder: Path = FOLDER) -> None:
    """Write the pages, and remove those that are no longer made."""
    for name in list(find_stale(pages, folder)):
        path = folder / name
        if name in pages:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages[name])
        else:
            path.unlink()


def _list_generated(folder: Path) -> Iterator[Path]:
    for name in GENERATED_FOLDERS:
        yield from sorted((folder / name).glob("*.md"))


def main() -> int:
    """Write or check the pages; return the exit status."""
    pages = make_pages()
    if "--check" not in sys.argv[1:]:
        write(pages)
        return 0
    stale = list(find_stale(pages))
    for name in stale:
        print(f"docs/reference/{name} is stale: run python docs/_tools/reference.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
