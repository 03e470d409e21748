"""Addresses of tracking servers and stores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stitch_sweep.cli import main as cli
from stitch_sweep.cli.sweep import local_store
from stitch_sweep.config.reading import read_config
from stitch_sweep.config.tracking import TrackingConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.tracking.mlflow_address import check_tracking, resolve
from tests.support.sweeps import write_config
from tests.support.tracking import uri_of

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
    assert resolve(None) == uri_of(tmp_path / "mlflow.db")
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


class StartedError(Exception):
    """The process was replaced by another program."""


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
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == uri_of(tmp_path / "mlflow.db")
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


def test_the_store_of_a_sweep_lies_in_its_project(tmp_path, monkeypatch):
    project = tmp_path / "project"
    (project / "sweep").mkdir(parents=True)
    (project / "stitch-sweep.yml").touch()
    monkeypatch.chdir(tmp_path)
    for uri, expected in (
        (None, project / "mlflow.db"),
        ("sqlite:///mlflow.db", project / "mlflow.db"),
        ("sqlite:///./mlflow.db", project / "sweep" / "mlflow.db"),
        ("sqlite:////elsewhere/mlflow.db", Path("/elsewhere/mlflow.db")),
        ("http://host", None),
    ):
        config = read_config(write_config(project / "sweep", tmp_path, tracking={"uri": uri}))
        assert local_store(config) == expected
