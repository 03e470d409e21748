"""The loop that follows a ledger: send new results, wait longer after errors, finish in time.

MLflow and the mirror use it: both send a sweep's results to a place that may be slow or out of reach.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 60.0
"""Seconds that a finished sweep waits for a receiver that accepts nothing."""
_LONGEST_WAIT_SECONDS = 30.0
_LAST_WAIT_SECONDS = 2.0


def follow(
    send: Callable[[bool], Iterator[object]],
    over: threading.Event,
    on_error: Callable[[Exception, bool], bool],
    *,
    poll_seconds: float,
    abandoned: threading.Event | None = None,
) -> bool:
    """Call `send` again and again, and once more after the sweep is over.

    The wait between two calls doubles after each error, and returns to `poll_seconds` after each
    success.

    Args:
        send: sends what the receiver lacks, and yields after each success; its argument says whether
            the sweep was over before the call.
        over: is set when the sweep is over.
        on_error: gets an exception of `send` and its argument; returns whether to try again.
        poll_seconds: seconds between two calls.
        abandoned: is set to stop after the present transfer and skip the rest.

    Returns:
        Whether everything was sent.
    """
    abandoned = abandoned or threading.Event()
    wait = poll_seconds
    while not abandoned.is_set():
        last = over.is_set()  # before sending: results that come later are sent in a further call
        try:
            for _ in send(last):
                wait = poll_seconds
                if abandoned.is_set():
                    return False
        except Exception as error:  # any exception of a server, a file system or a client
            if not on_error(error, last):
                return False
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            if last:
                abandoned.wait(min(wait, _LAST_WAIT_SECONDS))
                continue
        else:
            if last:
                return True
            wait = poll_seconds
        over.wait(wait)
    return False


def join_while_progressing(
    thread: threading.Thread, last_progress: Callable[[], float], patience: float
) -> None:
    """Wait for a thread to end, as long as it makes progress.

    Args:
        thread: the thread.
        last_progress: returns the time (`time.monotonic`) of its last progress.
        patience: seconds that it may make no progress.
    """
    while thread.is_alive() and time.monotonic() - last_progress() < patience:
        thread.join(timeout=0.1)
