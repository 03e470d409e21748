"""The thread that keeps a mirror up to date."""

from __future__ import annotations

import threading
from pathlib import Path

from stitch_sweep.tracking.mirror import Mirror
from stitch_sweep.tracking.mirroring import Mirroring
from tests.support.mirrors import begin_sweep, end_trial, read_files


class Stubborn(Mirror):
    """A mirror whose first transfers fail."""

    failures = 2

    def send(self):
        if self.failures > 0:
            self.failures -= 1
            raise OSError("no route to host")
        return super().send()


def test_a_place_that_comes_back_gets_everything(folder, uri, copy):
    begin_sweep(folder)
    with Mirroring(Stubborn(folder, uri)) as mirroring:
        end_trial(folder, 0, 0.5)
        assert mirroring.finish()
    assert read_files(copy) == read_files(folder)


def test_a_place_that_takes_nothing_holds_nobody_up(folder, uri, copy):
    begin_sweep(folder)
    mirror = Stubborn(folder, uri)
    mirror.failures = 10**9
    before = set(threading.enumerate())
    with Mirroring(mirror) as mirroring:
        assert not mirroring.finish(patience=0.5)
    assert set(threading.enumerate()) <= before, "it gave up, and does not go on unseen"
    assert mirroring.error == "OSError: no route to host"
    assert not copy.exists()


class Hanging(Mirror):
    """A mirror whose first call returns when `answer` is set."""

    def __init__(self, folder: Path, uri: str) -> None:
        super().__init__(folder, uri)
        self.asked, self.answer = threading.Event(), threading.Event()

    def _write(self, name, data):
        self.asked.set()
        self.answer.wait()
        super()._write(name, data)


def test_a_call_that_hangs_is_the_last_one(folder, uri, copy, monkeypatch):
    monkeypatch.setattr("stitch_sweep.tracking.mirroring.POLL_SECONDS", 0.01)
    begin_sweep(folder)
    mirror = Hanging(folder, uri)
    before = set(threading.enumerate())
    with Mirroring(mirror):
        mirror.asked.wait()
    (thread,) = set(threading.enumerate()) - before
    mirror.answer.set()
    thread.join()
    assert list(read_files(copy)) == ["ledger/sweep.json"]
