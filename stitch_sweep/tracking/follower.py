"""The loop that follows a ledger: send new results, wait longer after errors, finish in time.

Loggers and the mirror use it: they send a sweep's results to a place that may be slow or out of reach.
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


class FollowerThread:
    """A thread that follows a ledger. What hangs or fails there delays nothing else.

    Args:
        send: see `follow`; each success counts as progress.
        on_error: see `follow`.
        poll_seconds: see `follow`.

    Attributes:
        complete: whether everything was sent.
    """

    def __init__(
        self,
        send: Callable[[bool], Iterator[object]],
        on_error: Callable[[Exception, bool], bool],
        poll_seconds: float,
    ) -> None:
        self._send, self._on_error = send, on_error
        self._poll_seconds = poll_seconds
        self._over, self._abandoned = threading.Event(), threading.Event()
        self._last_progress = time.monotonic()
        self.complete = False
        # A daemon, so that a call that hangs doesn't keep the sweep's process from ending.
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Begin to follow the ledger."""
        self._thread.start()

    def finish(self, patience: float) -> bool:
        """Send the rest; return whether the thread has ended.

        Args:
            patience: seconds to wait without progress.
        """
        self._last_progress = time.monotonic()
        self._over.set()
        join_while_progressing(self._thread, lambda: self._last_progress, patience)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Stop after the present transfer, and skip the rest."""
        self._abandoned.set()
        self._over.set()

    def join(self, limit: float) -> None:
        """Wait for the thread's end, at most `limit` seconds."""
        self._thread.join(limit)

    def _follow(self) -> None:
        self.complete = follow(
            self._send_noting_progress,
            self._over,
            self._on_error,
            poll_seconds=self._poll_seconds,
            abandoned=self._abandoned,
        )

    def _send_noting_progress(self, last: bool) -> Iterator[object]:
        for event in self._send(last):
            self._last_progress = time.monotonic()
            yield event


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
