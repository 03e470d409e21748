"""A tracking server that dies and comes back, and processes that outlive the sweep's."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stitch_sweep.tracking import program
from stitch_sweep.tracking.process import TrackingProcess
from tests.support.faults import Proxy, Tracking, descendants, wait_for
from tests.support.tracking import end_trial, make_ledger

NOTICED = 10.0
"""Seconds within which an outage is reported."""


class Said:
    """Lines for the user, each with its time."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []

    def __call__(self, text: str) -> None:
        self.lines.append((time.monotonic(), text))

    def wait_for(self, count: int, limit: float) -> float:
        """Wait for a number of lines, and return the time of the last one."""
        wait_for(lambda: len(self.lines) >= count, f"{count} lines were said", limit)
        return self.lines[count - 1][0]


@contextmanager
def tracked(folder: Path, uri: str) -> Iterator[tuple[TrackingProcess, Said]]:
    said = Said()
    process = TrackingProcess(folder, "outages", uri, said)
    try:
        yield process, said
    finally:
        process.abandon()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    tracking = Tracking(tmp_path_factory.mktemp("mlflow"))
    yield tracking
    tracking.stop()


def test_a_server_that_dies_while_nothing_is_sent_is_reported_once_and_again_when_it_is_back(
    tmp_path, server, record_property
):
    ledger = make_ledger(tmp_path)
    with tracked(tmp_path, server.uri) as (process, said):
        wait_for(lambda: process.sent == 1, "the first trial was sent")
        assert said.lines == []
        server.stop()
        died = time.monotonic()
        noticed = said.wait_for(1, NOTICED) - died
        end_trial(ledger, 1)  # in vain, and not worth another line
        wait_for(lambda: time.monotonic() > died + 2 * NOTICED, "a while has passed")
        assert len(said.lines) == 1
        server.start()
        started = time.monotonic()
        back = said.wait_for(2, NOTICED) - started
        wait_for(lambda: process.sent == 2, "the second trial was sent")
        assert process.finish()
        texts = [text for _, text in said.lines]
    assert len(texts) == 2
    assert texts[0].startswith("MLflow does not answer (")
    assert "results are sent when it answers again" in texts[0]
    assert texts[1] == "MLflow accepts runs again"
    record_property("seconds until the outage was reported", noticed)
    record_property("seconds until the end of the outage was reported", back)
    print(f"reported after {noticed:.1f} s, and {back:.1f} s after its return")


@pytest.mark.parametrize("behavior", ["hang"])
def test_a_server_that_hangs_is_reported_as_soon(behavior, tmp_path, server):
    ledger = make_ledger(tmp_path)
    proxy = Proxy(server.port)
    try:
        with tracked(tmp_path, proxy.uri) as (process, said):
            wait_for(lambda: process.sent == 1, "the first trial was sent")
            proxy.behave(behavior)
            end_trial(ledger, 1)
            said.wait_for(1, NOTICED)
            proxy.behave("well")
            said.wait_for(2, 2 * NOTICED)
            wait_for(lambda: process.sent == 2, "the second trial was sent")
            assert len(said.lines) == 2
    finally:
        proxy.close()


DRIVER = """
import sys, time
from pathlib import Path
from stitch_sweep.tracking import program
from stitch_sweep.tracking.process import TrackingProcess

process = TrackingProcess(Path(sys.argv[1]), "outlives", sys.argv[2])
print(process._process.pid, flush=True)
if sys.argv[3] == "finish":
    process.finish(patience=1000)
time.sleep(1000)
"""


@pytest.mark.parametrize("stage", ["running", "finish"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_process_outlives_the_sweep_by_more_than_the_grace(
    sign, stage, tmp_path, server, monkeypatch
):
    """The server hangs, so nothing can be sent, before or after the sweep has said `finish`."""
    monkeypatch.setenv(program.GRACE_VARIABLE, "3")
    make_ledger(tmp_path)
    proxy = Proxy(server.port)
    proxy.behave("hang")
    try:
        command = [sys.executable, "-c", DRIVER, str(tmp_path), proxy.uri, stage]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None
            pid = int(driver.stdout.readline())
            wait_for(lambda: proxy.served.get("hang", 0) >= 1, "the server was asked")
            driver.send_signal(sign)
            driver.wait()
            ended = time.monotonic()
            below = [pid, *descendants(pid)]
            wait_for(lambda: not any(map(_runs, below)), "all processes have ended", 3 + NOTICED)
            print(f"ended {time.monotonic() - ended:.1f} s after the sweep's process")
    finally:
        proxy.close()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
