"""Ledgers and servers for the tests of tracking."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from stitch_sweep.storage.ledger import Ledger


def uri_of(database: Path) -> str:
    return f"sqlite:///{database}"


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


def end_trial(ledger: Ledger, number: int, **outcome: Any) -> None:
    """Record one more trial of `make_ledger`'s study, with two steps of two splits."""
    content = ledger.read("s-n0")
    assert content is not None
    trial = f"s-n{number}"
    outcome_keys = {
        "status",
        "metric",
        "metrics",
        "seconds",
        "started",
        "trajectory",
        "predictions",
    }
    spec = {key: value for key, value in content.items() if key not in outcome_keys}
    ledger.begin(trial, {**spec, "number": number})
    rows = [
        {"split": split, "step": step, "epoch": step, "time": 0.5 + step, "loss": 1 / (1 + step)}
        for step in (0, 1)
        for split in ("train", "validation")
    ]
    default = {"status": "finished", "metric": 0.25, "metrics": {"val_accuracy": 0.25}}
    times = {"seconds": 3.0, "started": 2000.0, "trajectory": rows}
    ledger.finish(trial, {**default, **times, **outcome}, None)


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """Run a server with one answer to every request; yield its address."""

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


BASE = {
    "data": {"name": "digits", "image_size": 16},
    "networks": [{"name": "a", "family": "resnet", "blocks": [1] * 4, "width": 4}],
    "pairs": [{"sender": "a", "receiver": "a"}],
}
"""A configuration without a section `tracking`."""


@pytest.fixture(autouse=True)
def no_tracking_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the tracking settings and credentials of the machine."""
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "DATABRICKS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
