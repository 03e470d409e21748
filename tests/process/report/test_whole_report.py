"""The report of a folder with all kinds of files: figures, tables, page, and its copy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stitch_sweep.storage.layout import REPORT_MANIFEST
from stitch_sweep.tracking.mirror import Mirror
from tests.support.report_pages import Parsed, page_of, write
from tests.support.reports import make_folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with all kinds of files, and its report. Tests must not change it."""
    folder = make_folder(tmp_path_factory.mktemp("whole") / "sweep", measured=True, sanity=True,
                         samples=2, layers=3, pairs=(("a", "b"), ("c", "d")))  # fmt: skip
    return folder, write(folder)


def test_a_copy_of_the_folder_holds_the_report_and_what_it_is_made_of(whole, tmp_path):
    folder, _ = whole
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    sent = set(Mirror(folder, f"file://{tmp_path}/copy").send())
    assert there - sent == {"sanity.json"}, "which another command writes where it is told to"


def test_everything_is_written_and_listed(whole):
    folder, report = whole
    names = {str(path.relative_to(folder)) for path in report.files}
    assert all(path.stat().st_size > 0 for path in report.files)
    assert names == set(json.loads((folder / REPORT_MANIFEST).read_text())["files"])
    stems = {Path(name).stem for name in names if name.startswith("figures/")}
    expected = {"matrices_accuracy_calibrated", "ladder_width", "representations", "correlations",
              "probes", "importances", "images__a__d"}  # fmt: skip
    assert expected <= stems
    assert {stem for stem in stems if f"figures/{stem}.png" not in names} == set()
    assert {stem for stem in stems if f"figures/{stem}.pdf" not in names} == set()
    tables = {Path(name).stem for name in names if name.endswith(".csv")}
    assert {"verdicts", "ladder_width", "representations", "networks", "probes"} <= tables
    latex = {Path(name).stem for name in names if name.endswith(".tex")}
    assert tables == latex | {"agreement_cells"}, "of which no page has room for every cell"
    page = page_of(folder)
    heads = {attrs.get("id") for tag, attrs in page.tags if tag == "h2"}
    sections = {"summary", "glance", "matrices", "ladder", "losses", "images", "networks", "search"}
    assert heads == sections | {"sanity", "made"}


def test_a_page_forbids_every_request(whole):
    folder, _ = whole
    text = (folder / "report.html").read_text()
    page = Parsed(text)
    (policy,) = [
        a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    for tag, attributes in page.tags:
        if tag in ("script", "img", "link", "iframe"):
            source = attributes.get("src") or attributes.get("href") or "data:"
            assert source.startswith("data:")
    assert text.count("plotly.js v") == 1


def test_the_summary_says_what_was_run_and_what_is_doubtful(whole):
    folder, report = whole
    (doubts,) = report.doubts
    assert "The sanity suite of sweep failed: order." in doubts
    assert any(text.startswith("No controls were run") for text in doubts)
    text = " ".join("".join(page_of(folder).text).split())
    assert "4 networks on digits (16 × 16 pixels), stitched as 2 pairs in 18 cells" in text
    assert "images 3 and 4 changed places" in text
