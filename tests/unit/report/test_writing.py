"""Analyzing folders and bare matrices, and wrong calls of the command.

tests/process/report/test_written_files.py reads the files of whole reports.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.report.findings import derive_findings
from stitch_sweep.report.reading import load_experiment
from stitch_sweep.report.writing import Report, analyze_matrix
from tests.support.paths import SHARED
from tests.support.report_pages import page_of, write
from tests.support.reports import make_folder
from tests.support.sweeps import invoke


def test_an_output_that_can_not_be_is_found_before_the_work(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give a folder"):
        write(folder, output=tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs either experiment folders or --matrix FILE.csv"),
        (["{}", "--matrix", "x.csv"], "not both"),
        (["{}", "--test-images", "5"], "--test-images: only with --matrix"),
        (["{}", "--chance", "1.5"], "--chance 1.5: is not an accuracy"),
        (["{}"], "neither results.parquet nor a ledger"),
    ],
)
def test_a_wrong_call_ends_with_status_2(tmp_path, arguments, message):
    status, output = invoke("analyze", *(argument.format(tmp_path) for argument in arguments))
    assert status == 2, output
    assert message in " ".join(output.split())


def test_a_lone_matrix_has_its_label_at_the_top(tmp_path):
    def result(folder: Path) -> dict:
        return Report(None, [derive_findings(load_experiment(folder))]).to_dict()

    lone = result(make_folder(tmp_path / "one", losses=("task",)))
    assert lone["label"] == lone["matrices"][0]["label"] == "triangle"
    assert json.loads(json.dumps(lone, allow_nan=False)) == lone
    several = result(make_folder(tmp_path / "two"))
    assert "label" not in several
    assert [m["factors"]["loss"] for m in several["matrices"]] == ["mse", "task"]


def matrix_file(path: Path, values: list[list[float]]) -> Path:
    path.write_text("\n".join(",".join(map(str, row)) for row in values))
    return path


def test_a_bare_matrix_is_judged_and_reported(tmp_path):
    file = matrix_file(tmp_path / "m.csv", [[0.9, 0.3, 0.2], [0.9, 0.9, 0.3], [0.9, 0.9, 0.9]])
    report = analyze_matrix(file, receiver_accuracy=0.9, test_images=1000, output=tmp_path / "out")
    assert report.to_dict()["label"] == "triangle"
    assert {path.suffix for path in report.files} == {".html", ".png", ".pdf", ".csv", ".tex"}
    page = page_of(tmp_path / "out")
    assert page.data["groups"] == []
    assert len(page.data["figures"]) == 1
    assert analyze_matrix(file, sender_accuracy=0.9).files == []
    without = analyze_matrix(file, output=tmp_path / "without")
    assert without.to_dict()["label"] == "triangle, relative to the matrix's maximum"
    text = (tmp_path / "without/report.html").read_text()
    assert "own accuracy is given, so the matrix" in text
    with pytest.raises(InputError, match="are these percent"):
        analyze_matrix(file, receiver_accuracy=90.0)


def test_a_published_matrix_is_the_triangle_that_its_authors_read():
    file = SHARED / "reference" / "r1111_r1111.csv"
    if not file.exists():
        pytest.skip("the published matrices are not beside this checkout")
    result = analyze_matrix(file, sender_accuracy=0.93, receiver_accuracy=0.93, test_images=1808)
    assert result.to_dict()["label"] == "triangle"
