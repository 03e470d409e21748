"""The tables of docs/results/ladder.md agree with each other, and the notebook redraws the page."""

from __future__ import annotations

import importlib
import os
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

from tests.support.paths import ROOT

TABLES = ROOT / "docs/results/ladder"
CHANCE = 0.1


def recompute(cells: pd.DataFrame, columns: int) -> dict[tuple[str, str, str, str], list[float]]:
    """Return L, D, U and both indices of every matrix, from its cells alone."""
    found = {}
    identity = ["folder", "kind", "sender", "receiver", "loss"]
    for key, rows in cells.groupby(identity):
        table = rows.set_index(["sender_layer", "receiver_layer"])["value"].unstack().to_numpy()
        own = float(rows[["sender_accuracy", "receiver_accuracy"]].max().max())
        shift = 0.0 if key[1] == "excess" else CHANCE
        scaled = ((table - shift) / (own - CHANCE))[:, :columns]
        i, j = np.indices(scaled.shape)
        lower, band, upper = (scaled[where].mean() for where in (i > j, i == j, i < j))
        found[key] = [lower, band, upper, lower - upper, band - max(lower, upper)]
    return found


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    """The cells of the part `task`, and the differences between pairs and their controls."""
    cells = pd.read_csv(TABLES / "cells.csv").rename(columns={"test_accuracy": "value"})
    cells = cells[cells["folder"].str.startswith("task/")]
    control = cells[cells["kind"] == "logits_only"].assign(
        sender=lambda rows: rows["sender"].str.removesuffix("-logits-only")
    )
    place = ["folder", "sender", "receiver", "loss", "sender_layer", "receiver_layer"]
    pairs = cells[cells["kind"] == "trained"]
    excess = pairs.merge(control[[*place, "value"]], on=place, suffixes=("", "_control"))
    assert len(excess) == len(pairs)
    excess = excess.assign(kind="excess", value=excess["value"] - excess["value_control"])
    return pd.concat([cells, excess], ignore_index=True)


@pytest.mark.parametrize(("columns", "name"), [(5, "all"), (4, "with receiver")])
def test_the_indices_follow_from_the_cells(cells, columns, name):
    indices = pd.read_csv(TABLES / "indices.csv")
    indices = indices[
        (indices["columns"] == name)
        & (indices["pairs"] == "one")
        & indices["folder"].str.startswith("task/")
    ]
    recomputed = recompute(cells, columns)
    assert len(indices) == len(recomputed) > 0
    by_pair = {key[:4]: values for key, values in recomputed.items()}
    for row in indices.itertuples():
        published = [row.lower, row.band, row.upper, row.triangle, row.diagonal]
        expected = by_pair[row.folder, row.kind, row.sender, row.receiver]
        # The tables have six digits.
        assert published == pytest.approx(expected, abs=5e-6), row


def test_a_wrong_cell_is_found(cells):
    """The planted fault: one cell of one pair is 0.01 too high."""
    wrong = cells.copy()
    row = wrong.index[(wrong["kind"] == "trained") & (wrong["receiver_layer"] == 1)][0]
    wrong.loc[row, "value"] += 0.01
    right, changed = recompute(cells, 4), recompute(wrong, 4)
    different = [key for key in right if right[key] != pytest.approx(changed[key], abs=5e-6)]
    assert [key[2:4] for key in different] == [tuple(wrong.loc[row, ["sender", "receiver"]])]


def test_the_tables_of_the_page_are_current(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments/cifar10/ladder"))
    results = importlib.import_module("results")
    made = results.page_tables(results.read_tables(TABLES))
    page = (TABLES.parent / "ladder.md").read_text()
    assert results.fill_page(page, made) == page, "run experiments/cifar10/ladder/results.py"


def test_the_notebook_redraws_the_page(tmp_path, monkeypatch):
    source = ROOT / "experiments/cifar10/ladder"
    folder = tmp_path / "experiments/cifar10/ladder"
    folder.mkdir(parents=True)
    shutil.copy(source / "results.py", folder)
    shutil.copytree(TABLES, tmp_path / "docs/results/ladder")
    notebook = nbformat.read(source / "ladder.ipynb", as_version=4)
    assert all(cell.get("outputs", []) == [] for cell in notebook.cells)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    client = NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(folder)}})
    executed = client.execute()
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 5
    (tests,) = (o["data"]["text/plain"] for o in executed.cells[-1]["outputs"])
    assert "H1" in tests
