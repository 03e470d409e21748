"""A copied store writes into the copy: MLflow's database has absolute places of artifacts."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys

from stitch_sweep.tracking.mlflow_tracker import Tracker
from stitch_sweep.tracking.moved_store import adopt_artifacts
from tests.support.command_line import everything
from tests.support.tracking import make_ledger, uri_of

_SEND = """
import sys
from pathlib import Path
from stitch_sweep.tracking.mlflow_tracker import Tracker
list(Tracker(Path(sys.argv[1]), "exp", sys.argv[2]).send_end())
"""


def test_a_copied_project_writes_nothing_into_the_original(tmp_path, monkeypatch):
    original, copy = tmp_path / "original", tmp_path / "copy"
    make_ledger(original / "sweep")
    monkeypatch.chdir(tmp_path)
    tracker = Tracker(original / "sweep", "exp", uri_of(original / "mlflow.db"))
    assert list(tracker.send()) == ["s-n0"]
    (original / "sweep" / "summary.json").write_text('{"trials": 1}')
    list(tracker.send_end())
    shutil.copytree(original, copy)
    before = everything(original)

    (copy / "sweep" / "results.parquet").write_text("new")
    # MLflow remembers the folder of a run's artifacts for as long as a process lives.
    subprocess.run(
        [sys.executable, "-c", _SEND, copy / "sweep", uri_of(copy / "mlflow.db")], check=True
    )
    assert everything(original) == before
    (uploaded,) = (copy / "mlruns").glob("*/artifacts/results.parquet")
    assert uploaded.read_text() == "new"
    assert adopt_artifacts(uri_of(copy / "mlflow.db")) == 0, "nothing is left to change"


def test_other_places_of_artifacts_stay(tmp_path):
    database = tmp_path / "mlflow.db"
    kind = ("mlflow.experimentKind", "custom_model_development")
    places = {
        1: "s3://bucket/mlruns",
        2: "file:///big/artifacts",
        3: "file:///elsewhere/mlruns",  # of an experiment that Stitch Sweep did not create
        4: "file:///elsewhere/mlruns",
        5: "mlflow-artifacts:/5",
    }
    with sqlite3.connect(database) as connection:
        connection.execute("create table experiments (experiment_id, artifact_location)")
        connection.execute("create table experiment_tags (experiment_id, key, value)")
        connection.execute("create table runs (experiment_id, artifact_uri)")
        for key, place in places.items():
            connection.execute("insert into experiments values (?, ?)", (key, place))
            connection.execute("insert into runs values (?, ?)", (key, f"{place}/r/artifacts"))
            if key != 3:
                connection.execute("insert into experiment_tags values (?, ?, ?)", (key, *kind))
    assert adopt_artifacts(uri_of(database)) == 1
    with sqlite3.connect(database) as connection:
        found = dict(connection.execute("select experiment_id, artifact_location from experiments"))
        runs = dict(connection.execute("select experiment_id, artifact_uri from runs"))
    current = (tmp_path / "mlruns").as_uri()
    assert found == {**places, 4: current}
    assert runs == {key: f"{place}/r/artifacts" for key, place in found.items()}


def test_a_file_that_is_no_store_is_left_alone(tmp_path):
    empty = tmp_path / "empty.db"
    empty.touch()
    for uri in (uri_of(empty), uri_of(tmp_path / "missing.db"), "http://host", "sqlite://"):
        assert adopt_artifacts(uri) == 0
    assert list(tmp_path.iterdir()) == [empty]
    assert empty.stat().st_size == 0
