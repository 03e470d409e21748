"""The files that a report writes: repeatable, without credentials, and listed by the command."""

from __future__ import annotations

import json
from pathlib import Path

from stitch_sweep.core.credentials import redact
from stitch_sweep.report.wording import format_duration
from stitch_sweep.report.writing import analyze
from stitch_sweep.storage.layout import REPORT_MANIFEST
from stitch_sweep.storage.ledger import Ledger
from tests.support.report_pages import write
from tests.support.reports import make_folder
from tests.support.sweeps import invoke


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


def test_the_command_prints_one_object(tmp_path):
    folder = make_folder(tmp_path / "sweep", losses=("task",))
    status, output = invoke("analyze", folder, "--no-measure", "--no-track", "--json")
    assert status == 0, output
    result = json.loads(output.splitlines()[-1])
    assert result["label"] == "triangle"
    (matrix,) = result["matrices"]
    assert {"label", "triangle", "diagonal", "order", "intervals", "reach"} <= matrix.keys()
    assert Path(result["report"]) == folder / "report.html"


def test_the_report_counts_copies_and_a_trial_s_cost_without_them(tmp_path):
    folder = make_folder(tmp_path / "sweep", samples=2, layers=2)
    for record in Ledger(folder).records():
        if record["number"] == 1:
            copied = {**record, "copied_from": record["trial"][:-1] + "0", "seconds": 0.0}
            path = folder / "ledger" / "trials" / f"{record['trial']}.json"
            path.write_text(json.dumps(copied))
    (folder / "results.parquet").unlink()
    page = analyze([folder], output=tmp_path, measured=False).page.read_text()
    count = len(list((folder / "ledger" / "trials").iterdir()))
    assert f"{count} trials have ended, {count // 2} of them copied from equal ones, in" in page
    assert f"{format_duration(2.5)} a trial" in page
    assert format_duration(2.5) != format_duration(1.25), "the mean of all trials"
