"""Links to MLflow runs: only the server that the user names is contacted."""

from __future__ import annotations

import socket

import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.report.findings import derive_findings
from stitch_sweep.report.page.page import Page
from stitch_sweep.report.reading import load_experiment
from stitch_sweep.report.runs import LOCAL, Tracking, web_address
from stitch_sweep.report.writing import analyze
from tests.support.report_pages import Parsed
from tests.support.reports import make_folder


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("https://me:word@host:8080/mlflow/?token=1#x", "https://host:8080/mlflow"),
        ("http://host:99999", LOCAL),
        ("http://[bad", LOCAL),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("sqlite:///mlflow.db", LOCAL),
        ("file:///tmp/mlruns", LOCAL),
        ("javascript:alert(1)", LOCAL),
        ("", LOCAL),
    ],
)
def test_an_address_of_a_server_holds_no_credentials(uri, address):
    assert web_address(uri) == address


def test_runs_are_linked_where_a_server_has_them(folder):
    experiment = load_experiment(folder)
    trial = str(experiment.results["trial"].iloc[0])
    address = "http://127.0.0.1:5000/#/experiments/1/runs/abc"
    page = Page("x", {(str(folder), trial): address})
    page.add(derive_findings(experiment))
    linked = {k: about["run"] for k, about in Parsed(page.html()).data["trials"].items()}
    assert linked.pop(trial) == address
    assert set(linked.values()) == {None}


class Listener:
    """A server on this machine that counts the connections that it gets."""

    def __enter__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.uri = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        return self

    def __exit__(self, *error):
        self._socket.close()

    def connections(self) -> int:
        count = 0
        while True:
            try:
                self._socket.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


@pytest.mark.parametrize("store", ["server", "sqlite", "file", "environment", "default"])
def test_no_server_or_store_that_the_user_does_not_name_is_contacted(tmp_path, monkeypatch, store):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    database, mlruns = tmp_path / "mlflow.db", tmp_path / "mlruns"
    database.write_text("mine")
    mlruns.mkdir()
    with Listener() as listener:
        uri = {"server": listener.uri, "sqlite": f"sqlite:///{database}", "file": mlruns.as_uri()}
        if store == "environment":
            monkeypatch.setenv("MLFLOW_TRACKING_URI", listener.uri)
        named = {"uri": uri.get(store), "experiment": "x"}
        folder = make_folder(tmp_path / "sweep", losses=("task",), layers=2, tracking=named)
        report = analyze([folder], measured=False)
        assert report.sent == 0
        assert not any("answer" in text for doubts in report.doubts for text in doubts)
        assert listener.connections() == 0
    assert database.read_text() == "mine"
    assert list(mlruns.iterdir()) == []


def test_a_server_that_the_user_names_is_asked_and_its_silence_is_told(tmp_path):
    folder = make_folder(
        tmp_path / "sweep", tracking={"uri": "http://192.0.2.1", "experiment": "x"}
    )
    uri = "http://127.0.0.1:9"  # the discard port: nothing listens there
    tracking = Tracking([load_experiment(folder)], uri)
    assert tracking.addresses() == {}
    (note,) = tracking.notes
    assert note.startswith("http://127.0.0.1:9 did not answer for sweep")


@pytest.mark.parametrize(
    "kept", ["none.db", "sqlite:///{}/none.db", "file://{}/none", "gopher://x"]
)
def test_a_store_that_is_not_there_is_refused_and_not_made(tmp_path, monkeypatch, kept):
    monkeypatch.chdir(tmp_path)
    folder = make_folder(tmp_path / "sweep", tracking={"experiment": "x"})
    with pytest.raises(InputError, match="--track"):
        analyze([folder], measured=False, track=kept.format(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]
