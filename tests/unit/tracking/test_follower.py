"""The loop that follows a ledger: when it sends, how long it waits, and when it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from stitch_sweep.tracking.follower import follow, join_while_progressing


class Event(threading.Event):
    """An event that records the waits for it, without waiting."""

    def __init__(self, set_after: int = 10**9) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._set_after = set_after

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        if len(self.waits) >= self._set_after:
            self.set()
        return self.is_set()


def nothing(last: bool) -> Iterator[None]:
    return iter(())


def test_it_sends_once_more_after_the_end():
    over, calls = Event(set_after=3), []
    assert follow(
        lambda last: calls.append(last) or nothing(last), over, pytest.fail, poll_seconds=0.5
    )
    assert calls == [False, False, False, True]
    assert over.waits == [0.5, 0.5, 0.5]


def test_it_waits_longer_after_each_error_and_no_longer_than_half_a_minute():
    over = Event(set_after=8)
    errors = []

    def fail(last: bool) -> Iterator[None]:
        if last:
            return nothing(last)
        raise OSError("no route to host")

    assert follow(
        fail, over, lambda error, last: not errors.append((str(error), last)), poll_seconds=1.0
    )
    assert over.waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
    assert errors == [("no route to host", False)] * 8


def test_a_success_resets_the_wait():
    over, calls = Event(set_after=4), iter(range(10))

    def send(last: bool) -> Iterator[None]:
        call = next(calls)
        if call == 2:
            yield
        if call in (0, 1, 2):
            raise OSError

    assert follow(send, over, lambda error, last: True, poll_seconds=1.0)
    assert over.waits == [2.0, 4.0, 2.0, 1.0]


def test_after_the_end_it_tries_again_at_short_intervals():
    over, abandoned = Event(), Event()
    over.set()
    calls = iter(range(10))

    def send(last: bool) -> Iterator[None]:
        assert last
        if next(calls) < 3:
            raise OSError
        return nothing(last)

    assert follow(send, over, lambda error, last: last, poll_seconds=0.5, abandoned=abandoned)
    assert abandoned.waits == [1.0, 2.0, 2.0]


def test_an_error_that_waiting_can_not_end_ends_it():
    def send(last: bool) -> Iterator[None]:
        raise OSError

    assert not follow(send, Event(), lambda error, last: False, poll_seconds=0.5)


def test_an_abandoned_one_ends_after_the_present_transfer():
    abandoned, sent = threading.Event(), []

    def send(last: bool) -> Iterator[None]:
        for k in range(5):
            sent.append(k)
            if k == 2:
                abandoned.set()
            yield

    assert not follow(send, Event(), pytest.fail, poll_seconds=0.5, abandoned=abandoned)
    assert sent == [0, 1, 2]


def test_a_thread_is_waited_for_while_it_progresses():
    release = threading.Event()
    thread = threading.Thread(target=release.wait, daemon=True)
    thread.start()
    join_while_progressing(thread, lambda: 0.0, patience=0.1)
    assert thread.is_alive()
    release.set()
    join_while_progressing(thread, lambda: float("inf"), patience=0.1)
    assert not thread.is_alive()
