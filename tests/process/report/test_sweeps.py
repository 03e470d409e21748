"""Reports of real sweeps, with MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stitch_sweep.report.runs import LOCAL
from stitch_sweep.report.writing import analyze
from stitch_sweep.tracking.mlflow_tracker import Tracker
from tests.support.report_pages import page_of
from tests.support.reports import make_folder
from tests.support.sweeps import run, write_config


@pytest.mark.long
def test_the_report_hangs_on_the_run_of_its_sweep(tmp_path, monkeypatch):
    from mlflow import MlflowClient  # takes seconds

    monkeypatch.chdir(tmp_path)  # artifacts of a store that is a file lie in the current folder
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    folder = make_folder(tmp_path / "sweep", losses=("task",), layers=2,
                         tracking={"uri": uri, "experiment": "x"})  # fmt: skip
    tracker = Tracker(folder, "x", uri)
    assert tracker.runs() is None, "looking makes nothing"
    assert analyze([folder], measured=False, track=uri).sent == 0
    assert len(list(tracker.send())) == 4
    assert analyze([folder], measured=False).sent == 0
    report = analyze([folder], measured=False, track=uri)
    assert report.sent == len(report.files), report.doubts
    runs = tracker.runs()
    shown = {t["id"]: t["run"] for t in page_of(folder).data["trials"].values()}
    assert shown == {
        trial: f"{LOCAL}/#/experiments/{runs.experiment}/runs/{run}"
        for trial, run in runs.children.items()
    }
    client = MlflowClient(tracking_uri=uri)
    held = {
        artifact.path
        for place in (None, "figures", "tables")
        for artifact in client.list_artifacts(runs.parent, place)
        if not artifact.is_dir
    }
    assert {str(path.relative_to(folder)) for path in report.files} <= held


def tracked(config: Path) -> str:
    """The tracking address of a configuration."""
    return str(yaml.safe_load(config.read_text())["tracking"]["uri"])


@pytest.mark.long
def test_a_real_sweep_is_measured_and_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = {"sender": "a", "receiver": "b", "sender_layers": [0, 4], "receiver_layers": [-1, 4]}
    config = write_config(
        tmp_path / "sweep",
        tmp_path / "zoo",
        pairs=[pair],
        training={"epochs": 2, "batch_size": 64},
    )
    status, output = run("sweep", config, "--workers", 2)
    assert status == 0, output
    status, output = run(
        "analyze", config.parent, "--allow", tmp_path / "zoo", "--track", tracked(config)
    )
    assert status == 0, output
    page = page_of(config.parent)
    heads = {attrs.get("id") for tag, attrs in page.tags if tag == "h2"}
    assert {"losses", "images", "networks", "search"} <= heads
    text = " ".join(page.text)
    assert "EV, relative" in text
    assert "paired bootstrap" not in text, "words, not the names of methods"
    assert all(trial["run"] for trial in page.data["trials"].values())
