"""Ctrl-C, SIGTERM and SIGHUP: a command ends with one sentence and status 130, without a traceback.

Batch systems send SIGTERM, a lost connection sends SIGHUP. Imports little, because the entry point
imports it first.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

STATUS = 130
"""Exit status of an interrupted command; a shell uses it for Ctrl-C."""

SENTENCE = (
    "Interrupted; nothing half-written is left. The same command goes on, a sweep with --resume"
)

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `timeout` and batch systems send a signal to the process and then to its group.
_REPEATED_SECONDS = 1.0

_raising: list[int] = []
_received: float | None = None
_from_us = False
_said = False


def exit_at_once() -> None:
    """From now on a signal exits at once: for moments when nothing runs that needs an end of its own.

    A signal that is ignored stays ignored (`nohup`).
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)


@contextmanager
def raised() -> Iterator[None]:
    """Within the block a signal raises KeyboardInterrupt in the main thread.

    Where a library handles Ctrl-C, as Tune does while trials run, the other signals call its handler.
    A signal that is ignored stays ignored. The handlers from before come back after the block.
    """
    global _raising, _received, _said
    _received, _said = None, False
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    unraisable = sys.unraisablehook

    def raise_again(lost: Any) -> None:
        """Python drops what is raised in a destructor, after a page of traceback."""
        global _received
        if issubclass(lost.exc_type, KeyboardInterrupt):
            _received = None
            _thread.interrupt_main(signal.SIGTERM)
        else:
            unraisable(lost)

    sys.unraisablehook = raise_again
    try:
        _raising = [n for n, handler in handlers.items() if handler is not signal.SIG_IGN]
        reinstall()
        yield
    finally:
        sys.unraisablehook, _raising = unraisable, []
        for number, handler in handlers.items():
            if handler is not None:  # None: a handler that was not installed from Python
                signal.signal(number, handler)


def reinstall() -> None:
    """Install the handlers of `raised` again, after a library has put its own in their place.

    Ray's own prints a stack for SIGTERM. Outside of `raised`, this does nothing.
    """
    for number in _raising:
        signal.signal(number, _raise)


def received() -> bool:
    """Whether a signal came since `raised` was entered."""
    return _received is not None


def interrupt_main() -> None:
    """Raise KeyboardInterrupt in the main thread without a signal; `received` stays as it is."""
    global _from_us
    _from_us = True
    _thread.interrupt_main(signal.SIGINT)


def say() -> None:
    """Print the sentence on standard error, once."""
    global _said
    if not _said:
        _said = True
        with suppress(OSError, ValueError):  # the terminal may be gone
            print(SENTENCE, file=sys.stderr, flush=True)


def leave(status: Any) -> None:
    """Exit without Python's own end, which waits for threads and can print a traceback."""
    with suppress(Exception):
        sys.stdout.flush()
    if status == STATUS and not _said:
        with suppress(OSError):  # not `print`, which a signal may have interrupted
            os.write(2, f"{SENTENCE}\n".encode())
    os._exit(status if isinstance(status, int) else 1)


def _exit(number: int, frame: FrameType | None) -> None:
    leave(STATUS)


def _raise(number: int, frame: FrameType | None) -> None:
    global _received, _from_us
    if _from_us:
        _from_us = False
        raise KeyboardInterrupt
    now = time.monotonic()
    if _received is not None and now - _received < _REPEATED_SECONDS:
        return
    _received = now
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler) and handler not in (_raise, signal.default_int_handler):
        handler(signal.SIGINT, frame)
        return
    raise KeyboardInterrupt
