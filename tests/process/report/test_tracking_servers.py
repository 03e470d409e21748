"""A report contacts no MLflow server or store that the user does not name."""

from __future__ import annotations

import socket

import pytest

from stitch_sweep.report.writing import analyze
from tests.support.reports import make_folder


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
