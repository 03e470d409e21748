"""Tracking addresses that can never work, servers that refuse, and secrets in addresses."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stitch_sweep.cli import main as cli
from stitch_sweep.config.models import Config, TrackingConfig
from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.core.credentials import conceal, public, public_uri
from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.sweep.resources import connect
from stitch_sweep.sweep.run import Outcome, _public
from stitch_sweep.tracking.errors import RefusedError, explain
from stitch_sweep.tracking.mirror import Mirror
from stitch_sweep.tracking.store import artifact_location, check_tracking, local_database, resolve
from stitch_sweep.tracking.tracker import Tracker, TrackingProcess
from tests.support.faults import wait_for
from tests.support.sweeps import write_config


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch, tmp_path):
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "DATABRICKS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


IMPOSSIBLE = [
    ("ftp://host/x", "begins with ftp:, which MLflow can't track to"),
    ("postgres://host/x", "did you mean 'postgresql'?"),
    ("htp://host", "did you mean 'http'?"),
    ("s3://bucket/x", "begins with s3:"),
    ("uc", "begins with uc:"),
    ("databricks-uc://x", "begins with databricks-uc:"),
    ("localhost:5000", "has no scheme: write http://localhost:5000"),
    ("127.0.0.1:5000/x", "has no scheme: write http://127.0.0.1:5000/x"),
    ("mlruns", "MLflow no longer keeps runs in folders"),
    ("file:///tmp/mlruns", "MLflow no longer keeps runs in folders"),
    ("http://", "isn't an address"),
    ("http://host:99999", "isn't an address"),
    ("https://host:port", "isn't an address"),
    ("http://[::1", "isn't an address"),
    ("mysql+nothing://host/x", "names a driver that SQLAlchemy doesn't know"),
    ("mssql://host/x", "needs the Python package pyodbc"),
    ("postgresql://host:port/x", "isn't an address of a database"),
    ("sqlite:mlflow.db", "write three slashes"),
    ("sqlite://mlflow.db", "write three slashes"),
    ("sqlite://", "is a database in memory"),
    ("sqlite:///:memory:", "is a database in memory"),
    ("sqlite:////dev/null/mlflow.db", "can't be written"),
    ("sqlite:////dev", "is not a file"),
    ("sqlite:////dev/null", "is not a file"),
    ("sqlite:////proc/mlflow.db", "can't be written"),
    ("sqlite:////tmp/%C3%A4-none/mlflow.db", "a folder that doesn't exist"),
    ("databricks", "needs credentials"),
    ("databricks://lab", "needs credentials"),
    (" http://host", "white space"),
]


@pytest.mark.parametrize(("uri", "problem"), IMPOSSIBLE)
def test_an_address_that_can_never_work_is_refused(uri, problem, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(InputError) as caught:
        check_tracking(TrackingConfig(uri=uri))
    (sentence,) = caught.value.problems
    assert sentence.startswith("tracking.uri: ")
    assert problem in sentence
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError) as caught:
        check_tracking(TrackingConfig())
    assert caught.value.problems == [sentence.replace("tracking.uri", "MLFLOW_TRACKING_URI")]
    check_tracking(TrackingConfig(enabled=False))


@pytest.mark.parametrize(
    "uri",
    [
        *("http://host", "https://me:pass word@host:5000/path?x=1", "http://[::1]:5000"),
        *(
            "sqlite:///mlflow.db",
            "sqlite:////nowhere/else/mlflow.db",
            "sqlite:///a@b/x.db?timeout=9",
        ),
    ],
)
def test_an_address_that_may_work_is_accepted_and_nothing_is_made(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_tracking(TrackingConfig(uri=uri))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("my own notes, longer than a header")
    with pytest.raises(InputError, match="is not an sqlite database"):
        check_tracking(TrackingConfig(uri=f"sqlite:///{file}"))
    assert file.read_text() == "my own notes, longer than a header"


def test_a_profile_of_databricks_that_is_not_configured_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "profiles"
    file.write_text("[lab]\nhost = https://lab.example\ntoken = hunter2\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(file))
    check_tracking(TrackingConfig(uri="databricks://lab"))
    with pytest.raises(InputError, match=r"allowed: lab$"):
        check_tracking(TrackingConfig(uri="databricks://nobody"))


def test_the_default_store_is_the_file_even_beside_folders_that_mlflow_refuses(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    assert resolve(None) == "sqlite:///mlflow.db"
    check_tracking(TrackingConfig())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert resolve(None) == (tmp_path / "mlruns").as_uri()
    check_tracking(TrackingConfig())


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_the_command_ends_with_status_2_before_anything_starts(
    options, tmp_path, monkeypatch, capsys
):
    config = write_config(tmp_path, tmp_path / "zoo", tracking={"uri": "htp://me:hunter2@host"})
    monkeypatch.setattr("sys.argv", ["stitch-sweep", "sweep", str(config), *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "tracking.uri: htp://host begins with htp:" in said
    assert "hunter2" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["config.yml"]


def make_ledger(folder: Path, trials: int = 1) -> Ledger:
    ledger = Ledger(folder)
    ledger.start({"config": {}})
    row = {"split": "train", "step": 0, "epoch": 0, "time": 0.5, "loss": 1.0}
    for number in range(trials):
        content = {
            **{"sender": "a", "sender_layer": 0, "receiver": "b", "receiver_layer": 1},
            **{"study": "s", "repeat": 0, "number": number, "params": {}, "factors": {}},
            "settings": {"stitch": {"name": "linear"}, "loss": {"task": 1.0}},
        }
        ledger.begin(f"s-n{number}", content)
        outcome = {"status": "finished", "metric": 0.5, "metrics": {"val_accuracy": 0.5}}
        outcome |= {"seconds": 2.0, "started": 1000.0, "trajectory": [row]}
        ledger.finish(f"s-n{number}", outcome, None)
    return ledger


def uri_of(database: Path) -> str:
    return f"sqlite:///{database}"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A folder with an sqlite store and a sweep of one trial in it, made while standing elsewhere."""
    folder = tmp_path_factory.mktemp("store")
    here = tmp_path_factory.mktemp("here")
    before = Path.cwd()
    make_ledger(folder / "sweep")
    (folder / "sweep" / "summary.json").write_text('{"trials": 1, "failed": 0, "seconds": 2.5}')
    os.chdir(here)
    try:
        tracker = Tracker(folder / "sweep", "exp", uri_of(folder / "mlflow.db"))
        assert list(tracker.send()) == ["s-n0"]
        assert "summary.json" in list(tracker.send_artifacts())
    finally:
        os.chdir(before)
    assert list(here.iterdir()) == []
    return folder


@pytest.fixture
def copied(store, tmp_path) -> Path:
    """A copy of the store's database, to do with as a test likes."""
    return Path(shutil.copy(store / "mlflow.db", tmp_path / "mlflow.db"))


def refusal(database: Path, folder: Path) -> str:
    """What keeps a sweep from being tracked."""
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
        list(tracker.send_artifacts())
    sentence = explain(caught.value, uri_of(copied), "exp")
    assert "artifacts of the experiment 'exp' can't be written from this machine" in sentence


def test_a_number_of_the_summary_has_one_point_for_each_number_of_ended_trials(tmp_path, copied):
    """However often the sweep is interrupted and resumed, the latest value is the final one."""
    from mlflow import MlflowClient

    folder = tmp_path / "sweep"
    ledger = make_ledger(folder)

    def send(**summary: float) -> None:
        (folder / "summary.json").write_text(json.dumps(summary))
        tracker = Tracker(folder, "exp", uri_of(copied))
        list(tracker.send())
        list(tracker.send_artifacts())

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


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """The address of a server that has one answer."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = _answer  # noqa: N815  (names of http.server)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


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
        (400, INVALID, "Sending it again can't help by itself"),
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


def test_a_refusal_is_said_before_the_sweep_begins_and_not_waited_for(tmp_path):
    said: list[str] = []
    with answering(403, "no") as address:
        uri = address.replace("://", "://me:pass word@")
        process = TrackingProcess(tmp_path, "exp", uri, said.append)
        arguments = Path(f"/proc/{process._process.pid}/cmdline").read_bytes()
        assert b"pass" not in arguments.replace(str(tmp_path).encode(), b"")
        wait_for(lambda: said, "it says why")
        make_ledger(tmp_path)
        assert not process.finish(patience=1000)
    (sentence,) = said
    assert f"MLflow takes no runs: {address} denies access" in sentence
    assert "pass" not in sentence
    assert process.refusal
    assert process.refusal in sentence


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


# No message contains one of these letters by itself.
MARKS = "ЖZ"
PIECES = st.tuples(st.sampled_from(MARKS), st.sampled_from(["", *" @:/?#%&+;=\n\t'\"\\[]"]))
SECRETS = st.lists(PIECES, min_size=4, max_size=8).map(
    lambda pieces: "".join(mark + sign for mark, sign in pieces)
)
URIS = [
    *("https://me:{}@host/x", "https://{}@host/x", "https://host/x?token={}", "https://host#{}"),
    *("postgresql://me:{}@host:5432/db", "postgresql://host/db?user=me&password={}"),
    *("mssql+pyodbc:///?odbc_connect={}", "sqlite:///x.db?key={}", "sqlite+cipher://:{}@/x.db"),
    *("s3://key:{}@bucket/x", "s3://bucket/x?secret_key={}", "ray://host:1/?token={}"),
    *("https://me:{}@host/x?token={}", "ftp://me:{}@host", "databricks://me:{}@host"),
]
SCHEMELESS = ["me:{}@host:5000/x", "localhost:5000/?token={}", "https:me:{}@host"]


def shows(text: str) -> bool:
    """Whether a text contains a part of a secret, in whatever form."""
    escaped = ("%D0%96", "\\u0416", "%5A")
    return bool(set(MARKS) & set(text)) or any(form in text for form in escaped)


@settings(max_examples=50)
@given(SECRETS, st.sampled_from([*URIS, *SCHEMELESS]), st.sampled_from([str, quote, quote_plus]))
def test_no_text_shows_a_secret_of_a_known_address(secret, template, write):
    uri = template.replace("{}", write(secret))
    assert not shows(public_uri(uri))
    for said in (
        f"API request to {uri}/api failed: {uri!r}, {quote(uri)}, {secret!r}",
        f"FATAL: {secret} and {write(secret)} are wrong\n{json.dumps(secret)}",
        f"Invalid url: {uri}".partition("\n")[0],
    ):
        assert not shows(conceal(said, uri)), said
        assert not shows(explain(ImportError(said), uri, "exp") or "")
    with pytest.raises(InputError) as caught:
        check_tracking(TrackingConfig(uri=f"no{uri}"))
    assert not shows(str(caught.value))


@settings(max_examples=50)
@given(SECRETS, st.sampled_from(URIS), st.sampled_from([str, quote, quote_plus]))
def test_no_data_and_no_file_shows_a_secret(secret, template, write):
    uri = template.replace("{}", write(secret))
    assert not shows(json.dumps(public({"uri": uri, "notes": [uri]}), ensure_ascii=False))
    config = Config.model_validate({**BASE, "tracking": {"uri": uri}})
    assert not shows(yaml.safe_dump(yaml.safe_load(to_yaml(_public(config))), allow_unicode=True))
    for make in (lambda: Mirror(Path(), f"no{uri}"), lambda: connect(f"x/{uri}", config.resources)):
        with pytest.raises(InputError) as caught:
            make()
        assert not shows(str(caught.value))


BASE = {
    "data": {"name": "digits", "image_size": 16},
    "networks": [{"name": "a", "family": "resnet", "blocks": [1] * 4, "width": 4}],
    "pairs": [{"sender": "a", "receiver": "a"}],
}


def test_an_address_without_credentials_stays_in_the_resolved_configuration():
    for uri in ("http://host:5000/x", "sqlite:////home/me@lab/a b#c/mlflow.db", "databricks://lab"):
        config = Config.model_validate({**BASE, "tracking": {"uri": uri}})
        assert _public(config).tracking.uri == uri
        assert conceal(f"no answer from {uri}.", uri) == f"no answer from {uri}."


def test_secrets_of_the_environment_are_concealed(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2 hunter3")
    assert "hunter" not in conceal("Authorization: Bearer hunter2%20hunter3", None)


@pytest.mark.parametrize(
    "tracking",
    ["https://me:hunter2@host", {"uri": ["https://me:hunter2@host"]}, {"experiment": "h"}],
)
def test_problems_of_a_configuration_show_no_secret(tracking, tmp_path):
    if isinstance(tracking, dict) and "experiment" in tracking:
        tracking = {"enabled": "https://me:hunter2@host"}
    config = write_config(tmp_path, tmp_path / "zoo", tracking=tracking)
    with pytest.raises(InputError) as caught:
        read_config(config)
    assert "hunter" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        cli._pairs(["tracking.uri:https://me:hunter2@host"], "--set")
    assert "hunter" not in str(caught.value)


class StartedError(Exception):
    """The program was replaced by another one."""


def test_the_ui_opens_the_store_of_the_sweep(tmp_path, monkeypatch):
    def started(program: str, arguments: list[str]) -> None:
        raise StartedError(*arguments)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", started)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")
    with pytest.raises(InputError, match="there are no runs yet"):
        cli.ui()
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(StartedError) as caught:
        cli.ui()
    assert "127.0.0.1" in caught.value.args
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == "sqlite:///mlflow.db"
    (tmp_path / "other.db").touch()
    uri = f"{uri_of(tmp_path / 'other.db')}?key=hunter2"
    config = write_config(tmp_path, tmp_path / "zoo", tracking={"uri": uri})
    with pytest.raises(StartedError) as caught:
        cli.ui(config)
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == uri
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@host/x")
    with pytest.raises(InputError, match=r"open https://host/x in a browser"):
        cli.ui()


def test_a_store_below_the_current_folder_vanishes_with_a_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri, here in (
        *((None, True), ("sqlite:///mlflow.db", True), ("sqlite:////elsewhere/mlflow.db", False)),
        ("http://host", False),
    ):
        config = Config.model_validate({**BASE, "tracking": {"uri": uri}})
        assert cli._tracked_here(config) == here


def test_a_port_that_nobody_listens_at_is_an_outage(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(Exception, match="refused") as caught:
            Tracker(tmp_path, "exp", uri).find_experiment()
    assert explain(caught.value, uri, "exp") is None
