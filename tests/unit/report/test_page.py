"""The content of the page.

tests/process/report/test_whole_report.py has the page of a folder with all kinds of files, and
test_browser.py beside it the appearance of the page.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.charts.plotly_renderer import escape_markup
from stitch_sweep.measuring.pictures import read_pictures, write_pictures
from stitch_sweep.report.figures import list_charts
from stitch_sweep.report.findings import derive_findings
from stitch_sweep.report.page.markup import encode_json, escape_script, render_sentence
from stitch_sweep.report.reading import load_experiment
from tests.support.report_pages import HOSTILE, doubts_of, read
from tests.support.reports import make_folder


def test_every_value_of_a_matrix_is_in_the_page(folder):
    (group,) = read(folder).data["groups"]
    shown = matrices(load_experiment(folder).results, "penalty")
    assert len(group["variants"]) == len(shown) == 2
    for variant, matrix in zip(group["variants"], shown, strict=True):
        np.testing.assert_allclose(variant["values"]["penalty"], matrix.values, rtol=1e-4)


def test_the_page_says_what_the_sweep_was_made_with(folder):
    page = "".join(read(folder).text)
    assert "python 3.12.1, torch 2.12.0" in page
    assert "a CPU of our own" in page


def test_a_cell_lists_its_best_trial_first_and_all_of_them(tmp_path):
    data = read(make_folder(tmp_path / "sweep", samples=3, layers=2)).data
    (group,) = data["groups"]
    for row in group["variants"][0]["trials"]:
        for cell in row:
            shown = [data["trials"][trial] for trial in cell]
            assert len(shown) == 3
            assert [trial["best"] for trial in shown] == [True, False, False]
            assert shown[0]["val"] == max(trial["val"] for trial in shown)


def test_missing_cells_are_counted_and_left_empty(tmp_path):
    folder = make_folder(
        tmp_path / "sweep", losses=("task",), failed=((0, 1),), unconverged=((2, 2),)
    )
    doubts = doubts_of(folder)
    assert "1 of 16 trials failed; × marks cells without any other." in doubts
    assert any(text.startswith("1 of 15 finished trials did not converge") for text in doubts)
    data = read(folder).data
    (variant,) = data["groups"][0]["variants"]
    assert variant["values"]["test_accuracy"][0][1] is None
    assert variant["marks"][2][2] == "*"
    (trial,) = variant["trials"][0][1]
    assert data["trials"][trial]["error"] == "the loss is not finite"


def test_trials_without_an_answer_of_convergence_are_counted(tmp_path):
    folder = make_folder(tmp_path / "sweep", losses=("task",), unconverged=((2, 2),))
    results = pd.read_parquet(folder / "results.parquet")
    results["converged"] = results["converged"].astype("boolean")
    results.loc[results["sender_layer"] == 0, "converged"] = pd.NA
    results.to_parquet(folder / "results.parquet")
    doubts = doubts_of(folder)
    assert any(text.startswith("1 of 16 finished trials did not converge") for text in doubts)
    assert "4 of 16 finished trials can't show whether their training was long enough." in doubts


def rename(folder: Path, old: str, new: str) -> None:
    """Give a network another name, everywhere but in trials' ids."""
    for path in [folder / "results.parquet", *(folder / "measured").glob("*.parquet")]:
        table = pd.read_parquet(path)
        for column in {"sender", "receiver", "network"} & set(table.columns):
            table[column] = table[column].replace(old, new)
        table.to_parquet(path)
    path = folder / "config.resolved.yml"
    config = yaml.safe_load(path.read_text())
    for network in config["networks"]:
        network["name"] = new if network["name"] == old else network["name"]
    path.write_text(yaml.safe_dump(config))
    images = folder / "measured" / "images.safetensors"
    pictures = read_pictures(images)
    for picture in pictures.pictures:
        picture.about["sender"] = new
    write_pictures(images, pictures)


def test_hostile_texts_stay_texts(tmp_path):
    common = {"failed": ((1, 1),), "measured": True, "sanity": True, "layers": 3}
    folder = make_folder(tmp_path / "sweep", error=HOSTILE, **common)
    clean = make_folder(tmp_path / "clean", **common)
    for place in (folder, clean):
        shutil.rmtree(place / "ledger")  # its file names could not hold such a name
    rename(folder, "a", HOSTILE)
    page, reference = read(folder), read(clean)
    # The page has the same elements under all names: no name became markup.
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in reference.tags]
    assert len(page.scripts) == len(reference.scripts) == 3
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert HOSTILE in "".join(page.text)
    names = [name for name, _ in list_charts(derive_findings(load_experiment(folder)))]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
    errors = {trial["error"] for trial in page.data["trials"].values()}
    assert errors == {None, HOSTILE}
    for variant in page.data["groups"][0]["variants"]:
        assert "<" not in variant["hover"]


def test_scripts_and_data_can_not_end_their_element():
    hostile = {"a": HOSTILE, "<!--": ["]]>", "\u2028"]}
    text = encode_json(hostile)
    assert json.loads(text) == hostile
    assert not set("<>&") & set(text)
    assert "</script" not in escape_script("x = '</script>'; y = '<!--'")
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_json(math.nan)
    assert escape_markup("<b>&amp;") == "&lt;b&gt;&amp;amp;"
    assert render_sentence("`a<b` <i>") == "<code>a&lt;b</code> &lt;i&gt;"
