"""Stores and servers that refuse runs, and the remedies that their users are told."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from stitch_sweep.sweep.run import Outcome
from stitch_sweep.tracking.errors import RefusedError, explain
from stitch_sweep.tracking.mlflow_address import artifact_location, local_database
from stitch_sweep.tracking.mlflow_tracker import Tracker
from stitch_sweep.tracking.trial_content import run_name
from tests.support.tracking import answering, make_ledger, uri_of


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A folder with an sqlite store and a sweep of one trial, created from another current folder."""
    folder = tmp_path_factory.mktemp("store")
    here = tmp_path_factory.mktemp("here")
    before = Path.cwd()
    make_ledger(folder / "sweep")
    (folder / "sweep" / "summary.json").write_text('{"trials": 1, "failed": 0, "seconds": 2.5}')
    os.chdir(here)
    try:
        tracker = Tracker(folder / "sweep", "exp", uri_of(folder / "mlflow.db"))
        assert list(tracker.send()) == ["s-n0"]
        assert "summary.json" in list(tracker.send_end())
    finally:
        os.chdir(before)
    assert list(here.iterdir()) == []
    return folder


@pytest.fixture
def copied(store, tmp_path) -> Path:
    """A copy of the store's database, which a test may change."""
    return Path(shutil.copy(store / "mlflow.db", tmp_path / "mlflow.db"))


def refusal(database: Path, folder: Path) -> str:
    """Return the sentence that explains why a sweep can't be tracked."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  (of MLflow, or ours)
        list(Tracker(folder, "exp", uri_of(database)).send())
    sentence = explain(caught.value, uri_of(database), "exp")
    assert sentence is not None, caught.value
    return sentence


def test_artifacts_of_an_sqlite_store_lie_beside_it(store):
    assert list((store / "mlruns").glob("*/artifacts/summary.json"))


def test_a_place_with_odd_characters_has_its_artifacts_beside_it(tmp_path, monkeypatch):
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    folder = tmp_path / "a b#é"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for uri in (
        "sqlite:///mlflow.db",
        uri_of(folder / "mlflow.db"),
        "sqlite:///mlflow.db?timeout=9",
    ):
        assert local_database(uri).absolute() == folder / "mlflow.db"
        place = artifact_location(uri)
        assert Path(LocalArtifactRepository(place).artifact_dir) == folder / "mlruns"
    assert artifact_location("http://host") is None


def test_an_experiment_that_was_deleted_is_told_with_its_remedy(store, copied):
    with sqlite3.connect(copied) as database:
        database.execute("update experiments set lifecycle_stage = 'deleted' where name = 'exp'")
    sentence = refusal(copied, store / "sweep")
    assert "was deleted" in sentence
    assert "mlflow experiments restore --experiment-id 1" in sentence
    assert "tracking.experiment" in sentence


@pytest.mark.parametrize(
    ("revision", "remedy"),
    [
        ("0584bdc529eb", "mlflow db upgrade sqlite:///"),  # of MLflow 2
        ("0123456789ab", "pip install --upgrade mlflow"),
    ],
)
def test_a_schema_of_another_mlflow_is_told_with_its_remedy(store, copied, revision, remedy):
    with sqlite3.connect(copied) as database:
        database.execute("update alembic_version set version_num = ?", (revision,))
    assert remedy in refusal(copied, store / "sweep")


def test_an_experiment_keeps_its_place_of_artifacts_and_one_that_is_no_folder_is_told(
    tmp_path, copied
):
    with sqlite3.connect(copied) as database:
        database.execute("update experiments set artifact_location = '/dev/null/x'")
    make_ledger(tmp_path / "sweep")
    (tmp_path / "sweep" / "summary.json").write_text("{}")
    tracker = Tracker(tmp_path / "sweep", "exp", uri_of(copied))
    with pytest.raises(OSError) as caught:  # noqa: PT011  (explained below)
        list(tracker.send_end())
    sentence = explain(caught.value, uri_of(copied), "exp")
    assert "artifacts of the experiment 'exp' can't be written from this machine" in sentence


def test_a_number_of_the_summary_has_one_point_for_each_number_of_ended_trials(tmp_path, copied):
    """After any number of interruptions and resumes, the latest value is the final one."""
    from mlflow import MlflowClient

    folder = tmp_path / "sweep"
    ledger = make_ledger(folder)

    def send(**summary: float) -> None:
        (folder / "summary.json").write_text(json.dumps(summary))
        tracker = Tracker(folder, "exp", uri_of(copied))
        list(tracker.send())
        list(tracker.send_end())

    send(trials=1, failed=0, seconds=2.0)
    send(trials=1, failed=0, seconds=2.0)
    send(trials=3, failed=1, seconds=5.0)
    send(trials=4, failed=1, seconds=7.0)
    send(trials=4, failed=1, seconds=7.0)
    client = MlflowClient(uri_of(copied))
    run = Tracker(folder, "exp", uri_of(copied)).runs().parent
    points = {
        key: [(point.step, point.value) for point in client.get_metric_history(run, key)]
        for key in ("trials", "failed", "seconds")
    }
    assert points == {
        "trials": [(1, 1.0), (3, 3.0), (4, 4.0)],
        "failed": [(1, 0.0), (3, 1.0)],
        "seconds": [(1, 2.0), (3, 5.0), (4, 7.0)],
    }
    held = client.get_run(run).data.metrics
    assert held == {"trials": 4.0, "failed": 1.0, "seconds": 7.0}
    assert ledger.trial_ids() == {"s-n0"}


def test_a_sweeps_run_shows_the_indices_and_the_label_of_each_matrix(tmp_path, copied):
    """With more labels than MLflow takes tags in a call; the picture is the first artifact."""
    from mlflow import MlflowClient

    folder = tmp_path / "sweep"
    make_ledger(folder)
    for subfolder in ("matrices", "figures"):
        (folder / subfolder).mkdir()
    (folder / "matrices" / "a__b.csv").write_text("")
    (folder / "figures" / "a__b.png").write_bytes(b"picture")
    verdicts = [
        {
            "matrix": f"a__b{number}",
            "label": "triangle",
            "mean_accuracy": 0.5,
            "lower": 0.75,
            "band": 0.875,
            "upper": 0.25,
            "triangle": 0.5,
            "order": None,
        }
        for number in range(101)
    ]
    further = {**verdicts[0], "label": "diagonal", "upper": 0.125}
    verdicts[7] |= {"without_receiver_free": further, "beyond_logits": {**further, "lower": -0.5}}
    (folder / "verdicts.json").write_text(json.dumps({"matrices": verdicts}))
    tracker = Tracker(folder, "exp", uri_of(copied))
    list(tracker.send_end())
    client, run = MlflowClient(uri_of(copied)), tracker.runs().parent
    data = client.get_run(run).data
    assert data.metrics["matrix/a__b7/triangle"] == 0.5
    assert data.metrics["matrix/a__b100/upper"] == 0.25
    assert "matrix/a__b7/order" not in data.metrics
    assert data.metrics["matrix/a__b7/reduced_upper"] == 0.125
    assert data.metrics["matrix/a__b7/beyond_logits_lower"] == -0.5
    assert data.tags["reduced_label/a__b7"] == data.tags["beyond_logits_label/a__b7"] == "diagonal"
    assert "beyond_logits_label/a__b8" not in data.tags
    assert data.tags["label/a__b0"] == data.tags["label/a__b100"] == "triangle"
    names = sorted(artifact.path for artifact in client.list_artifacts(run))
    assert names[0] == "0_overview.png"


def test_runs_are_named_for_people():
    record = {
        **{"sender": "a", "sender_layer": 2, "receiver": "b", "receiver_layer": 3},
        **{"settings": {"stitch": {"name": "paper"}, "loss": {"task": 1.0, "mse": 0.5}}},
    }
    first = run_name({**record, "repeat": 0, "number": 0})
    assert first == "a:2 -> b:3, paper, task+mse"
    assert run_name({**record, "repeat": 1, "number": 0}) == f"{first}, repeat 1"
    assert run_name({**record, "repeat": 1, "number": 4}) == f"{first}, repeat 1, number 4"


def test_a_stopped_trial_is_a_killed_run_with_its_values(tmp_path, copied):
    """It is sent once: a second tracker knows that it has ended."""
    from mlflow import MlflowClient

    folder = tmp_path / "sweep"
    ledger = make_ledger(folder, 2)
    row = {"split": "validation", "step": 4, "epoch": 1, "time": 0.5, "accuracy": 0.25}
    changes = {"status": "stopped", "stopped_at": 1, "metric": 0.25, "metrics": {}}
    ledger.write("s-n1", {**(ledger.read("s-n1") or {}), **changes, "trajectory": [row]})
    assert sorted(Tracker(folder, "exp", uri_of(copied)).send()) == ["s-n0", "s-n1"]
    tracker = Tracker(folder, "exp", uri_of(copied))
    assert list(tracker.send()) == []
    client = MlflowClient(uri_of(copied))
    runs = {trial: client.get_run(run) for trial, run in tracker.runs().children.items()}
    assert {trial: run.info.status for trial, run in runs.items()} == {
        "s-n0": "FINISHED",
        "s-n1": "KILLED",
    }
    tags, metrics = runs["s-n1"].data.tags, runs["s-n1"].data.metrics
    assert (tags["status"], tags["stopped_at"]) == ("stopped", "1")
    assert metrics["val/accuracy"] == 0.25
    assert "status" not in runs["s-n0"].data.tags


INVALID = '{"error_code": "INVALID_PARAMETER_VALUE", "message": "an absolute path is required"}'


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (401, "who are you?", "MLFLOW_TRACKING_USERNAME"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "no"}', "MLFLOW_TRACKING_TOKEN"),
        (403, '{"detail": "no"}', "MLFLOW_TRACKING_TOKEN"),
        (404, "<html>nothing</html>", "Check host, port and path"),
        (404, '{"detail": "Not Found"}', "Check host, port and path"),
        (200, "<html>welcome</html>", "it isn't MLflow, or asks for a login"),
        (400, INVALID, "Sending it again has the same result"),
        (429, "slow down", None),
        (500, "<html>broken</html>", None),
        (503, '{"detail": "later"}', None),
        (504, "late", None),
    ],
)
def test_an_answer_that_waiting_can_not_change_is_told_apart_from_an_outage(
    status, body, remedy, tmp_path
):
    from mlflow.exceptions import MlflowException

    with answering(status, body) as address:
        uri = address.replace("://", "://me:hunter%202@") + "/?token=hunter3"
        with pytest.raises(MlflowException) as caught:
            Tracker(tmp_path, "exp", uri).find_experiment()
        sentence = explain(caught.value, uri, "exp")
    assert (sentence is None) == (remedy is None)
    if sentence is not None:
        assert remedy in sentence
        assert "hunter" not in sentence


def test_a_name_that_the_server_refuses_is_told(tmp_path):
    make_ledger(tmp_path)
    with answering(400, INVALID) as address:
        tracker = Tracker(tmp_path, "exp", address)
        tracker._client.get_experiment_by_name = lambda _: None
        with pytest.raises(RefusedError, match=r"Set tracking\.experiment to another"):
            list(tracker.send())


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ImportError("No module named 'boto3'"), "Install it"),
        (Exception("FATAL: password authentication failed for user"), "Check user, password"),
        (Exception("(1045, Access denied for user 'me'@'h')"), "Check user, password"),
        (Exception('FATAL: database "runs" does not exist'), "Create it"),
        (Exception("attempt to write a readonly database"), "writable"),
        (
            Exception("SSLError(SSLCertVerificationError(1, ...))"),
            "MLFLOW_TRACKING_SERVER_CERT_PATH",
        ),
        (Exception("[SSL: WRONG_VERSION_NUMBER] wrong version"), "http:// in place of https://"),
        (Exception("database is locked"), None),
        (Exception("Name or service not known"), None),
        (OSError(28, "No space left on device"), None),
        (ConnectionRefusedError(111, "Connection refused"), None),
    ],
)
def test_errors_of_stores_and_machines_are_told_apart(error, remedy):
    sentence = explain(error, "https://me:hunter2@host", "exp")
    assert sentence is None if remedy is None else remedy in sentence


def test_the_exit_status_tells_a_refusal_and_not_an_outage():
    import pandas as pd

    def status(**changes: object) -> int:
        values = {"total": 1, "ended": 1, "failed": 0, "copied": 0}
        values |= {"lost": 0, "interrupted": False}
        values |= {"tracked": False, "mirrored": None} | changes
        return Outcome(pd.DataFrame(), [], **values).exit_status

    assert status() == 0
    assert status(tracking_problem="the experiment was deleted") == 1
    assert status(tracking_problem="the experiment was deleted", interrupted=True) == 130


def test_a_port_that_nobody_listens_at_is_an_outage(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(Exception, match="refused") as caught:
            Tracker(tmp_path, "exp", uri).find_experiment()
    assert explain(caught.value, uri, "exp") is None
