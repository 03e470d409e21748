"""Analyzing folders and bare matrices, the written files, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stitch_sweep.core.credentials import redact
from stitch_sweep.core.errors import InputError
from stitch_sweep.report.findings import derive_findings
from stitch_sweep.report.reading import load_experiment
from stitch_sweep.report.writing import Report, analyze_matrix
from stitch_sweep.storage.layout import REPORT_MANIFEST
from stitch_sweep.tracking.mirror import Mirror
from tests.support.paths import SHARED
from tests.support.report_pages import page_of, write
from tests.support.reports import make_folder
from tests.support.sweeps import invoke


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


def test_a_second_report_is_the_same_and_removes_what_is_stale_and_nothing_else(tmp_path):
    folder = make_folder(tmp_path / "sweep", losses=("task",), layers=2)
    first = {path.name: path.read_bytes() for path in write(folder).files}
    listed_files = json.loads((folder / REPORT_MANIFEST).read_text())["files"]
    stale = folder / "figures" / "old.png"
    stale.touch()
    (folder / "figures" / "theirs.png").touch()
    outside = ["../x.png", "figures/../config.resolved.yml", "results.parquet", "figures/old.png"]
    (folder / REPORT_MANIFEST).write_text(json.dumps({"files": [*listed_files, *outside]}))
    second = {path.name: path.read_bytes() for path in write(folder).files}
    assert first == second
    assert not stale.exists()
    assert (folder / "figures" / "theirs.png").exists()
    assert (folder / "results.parquet").exists()
    assert (folder / "config.resolved.yml").exists()


def test_credentials_are_never_shown(tmp_path):
    tracking = {"enabled": False, "uri": "https://me:hunter2@host.example/x", "password": "hunter3"}
    folder = make_folder(tmp_path / "sweep", tracking=tracking, losses=("task",), layers=2)
    for path in write(folder).files:
        assert b"hunter" not in path.read_bytes()
    assert "https://host.example/x" in (folder / "report.html").read_text()
    for uri in ("https://me:p@ss@host/x", "https://me:p/ss@host/x", "https://host/x?api_key=p"):
        assert redact(uri) == "https://host/x"
    nested = {"a": [{"api_key": "x", "url": "see http://u:p@h/ and http://v:q@i/"}], "token": None}
    hidden = {
        "a": [{"api_key": "(not shown)", "url": "see http://h/ and http://i/"}],
        "token": None,
    }
    assert redact(nested) == hidden


def test_an_output_that_can_not_be_is_found_before_the_work(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give a folder"):
        write(folder, output=tmp_path / "file")


def test_the_command_prints_one_object(tmp_path):
    folder = make_folder(tmp_path / "sweep", losses=("task",))
    status, output = invoke("analyze", folder, "--no-measure", "--no-track", "--json")
    assert status == 0, output
    result = json.loads(output.splitlines()[-1])
    assert result["label"] == "triangle"
    (matrix,) = result["matrices"]
    assert {"label", "triangle", "diagonal", "order", "intervals", "reach"} <= matrix.keys()
    assert Path(result["report"]) == folder / "report.html"


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
    with pytest.raises(InputError, match="--sender-accuracy or --receiver-accuracy"):
        analyze_matrix(file)
    with pytest.raises(InputError, match="are these percent"):
        analyze_matrix(file, receiver_accuracy=90.0)


def test_a_published_matrix_is_the_triangle_that_its_authors_read():
    file = SHARED / "reference" / "r1111_r1111.csv"
    if not file.exists():
        pytest.skip("the published matrices are not beside this checkout")
    result = analyze_matrix(file, sender_accuracy=0.93, receiver_accuracy=0.93, test_images=1808)
    assert result.to_dict()["label"] == "triangle"
