"""The notebooks of the tutorials run from top to bottom, and are stored without outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.support.paths import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


def execute(notebook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Execute a notebook in a folder, with this checkout's code."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=500, resources=resources).execute()


def texts(cell: Any, kind: str) -> list[str]:
    """Return a cell's outputs of one kind, such as `text/html`."""
    return [output["data"][kind] for output in cell.outputs if kind in output.get("data", {})]


def test_there_are_notebooks_to_run():
    assert [path.name for path in NOTEBOOKS] == ["two_networks.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_valid_and_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_two_networks_of_your_own(tmp_path, monkeypatch):
    notebook = nbformat.read(ROOT / "docs/tutorials/two_networks.ipynb", as_version=4)
    executed = execute(notebook, tmp_path, monkeypatch)
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    by_start = {cell.source.split("\n")[0].split("(")[0]: cell for cell in cells}
    assert "block2" in "".join(texts(by_start["ss.layers"], "text/plain"))
    (stitched,) = (cell for cell in cells if "result = ss.stitch" in cell.source)
    assert "test_accuracy" in texts(stitched, "text/html")[-1]
    assert texts(by_start["result.plot"], "image/png")
    (crossed,) = (cell for cell in cells if "matrix = ss.matrix" in cell.source)
    assert "data:image/png;base64," in texts(crossed, "text/html")[-1]
    assert "label" in texts(by_start["matrix.verdict"], "text/html")[-1]
    # Nothing is left beside the notebook, which has no folder for the matrix.
    assert list(tmp_path.iterdir()) == []


def test_a_cell_that_fails_is_found(tmp_path, monkeypatch):
    """The planted fault: a layer that doesn't exist."""
    notebook = nbformat.read(ROOT / "docs/tutorials/two_networks.ipynb", as_version=4)
    start = [cell for cell in notebook.cells if cell.cell_type == "code"][:5]
    start[-1].source = start[-1].source.replace('"block2", "block2"', '"block9", "block2"')
    notebook.cells = start
    with pytest.raises(CellExecutionError, match="block9"):
        execute(notebook, tmp_path, monkeypatch)
