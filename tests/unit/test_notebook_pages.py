"""The notebook is a page of the documents' site."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest

from tests.support.documents import code_blocks
from tests.support.paths import ROOT

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def hook():
    path = ROOT / "docs/_tools/notebooks.py"
    spec = importlib.util.spec_from_file_location("notebooks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_has_every_cell_and_a_link_to_the_notebook(hook):
    notebook = json.loads((ROOT / "docs/tutorials/two_networks.ipynb").read_text())
    page = hook.to_markdown(notebook, "two_networks.ipynb")
    heading, _, link, *_ = page.splitlines()
    assert heading.startswith("# ")
    assert "](two_networks.ipynb)" in link
    cells = {kind: [] for kind in ("code", "markdown")}
    for cell in notebook["cells"]:
        cells[cell["cell_type"]].append("".join(cell["source"]))
    assert [code for _, code in code_blocks(page, "python")] == [f"{c}\n" for c in cells["code"]]
    assert all(text in page for text in cells["markdown"][1:])


def test_links_to_a_notebook_lead_to_its_page(hook):
    text = "[one](two.ipynb), [other](../a/two.ipynb), [far](https://x.org/two.ipynb)"
    page = SimpleNamespace(file=SimpleNamespace(generated_by=None))
    expected = "[one](two.md), [other](../a/two.md), [far](https://x.org/two.ipynb)"
    assert hook.on_page_markdown(text, page, config=None, files=None) == expected
    page.file.generated_by = "hook"
    assert hook.on_page_markdown(text, page, config=None, files=None) == text
