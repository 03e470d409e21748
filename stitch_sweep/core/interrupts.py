"""Ctrl-C, SIGTERM and SIGHUP: a command ends with one sentence and status 130, without a traceback.

Batch systems send SIGTERM; a lost connection sends SIGHUP. The entry point imports this module first, so
it imports little.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

STATUS = 130
"""Exit status of an interrupted command. Shells use the same status for Ctrl-C."""

SENTENCE = (
    "Interrupted. No half-written files are left. Run the same command to continue; for a sweep, add "
    "--resume"
)

_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
)
# `timeout` and batch systems send a signal to the process and then to its process group.
_REPEAT_SECONDS = 1.0

_SIGACTION_BYTES = 256
"""More than a `struct sigaction` has on any system."""

_raising: list[int] = []
_received: float | None = None
_without_signal = False
_printed = False


def exit_at_once() -> None:
    """Install handlers that exit at once, for phases that need no cleanup.

    Ignored signals stay ignored (`nohup`).
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Make signals raise KeyboardInterrupt in the main thread, within the block.

    If a library handles Ctrl-C, as Tune does while trials run, the other signals call its handler.
    Ignored signals stay ignored. The previous handlers are restored after the block.
    """
    global _raising, _received, _printed
    _received, _printed = None, False
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    unraisable = sys.unraisablehook

    def raise_again(lost: Any) -> None:
        """Raise an interrupt again that Python drops because it was raised in a destructor."""
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
            if handler is not None:  # None: the handler was not installed from Python
                signal.signal(number, handler)


def reinstall() -> None:
    """Install the handlers of `raise_on_signal` again, after a library has replaced them.

    Ray's handler prints a stack trace for SIGTERM. Outside of `raise_on_signal`, this does nothing.
    """
    for number in _raising:
        signal.signal(number, _raise)


@contextmanager
def restored_handlers() -> Iterator[None]:
    """Restore all of Python's signal handlers after a block in the main thread.

    Tune leaves its handler of SIGINT behind, which ignores the next Ctrl-C. In other threads, where
    Python allows no handler, the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # Only what has changed: a handler that wasn't installed from Python must stay.
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextmanager
def kept_by_kernel() -> Iterator[None]:
    """Keep the process's handlers through a block that replaces them, in any thread.

    Ray's library installs a handler for SIGTERM that prints a stack trace. Python lets only the main
    thread install its own again.
    """
    if os.name != "posix":  # no sigaction
        yield
        return
    import ctypes  # not at the top: the entry point imports this module first

    libc = ctypes.CDLL(None)
    handlers = {number: ctypes.create_string_buffer(_SIGACTION_BYTES) for number in _SIGNALS}
    for number, handler in handlers.items():
        libc.sigaction(number, None, handler)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            libc.sigaction(number, handler, None)


def received() -> bool:
    """Return whether a signal was received since the start of `raise_on_signal`."""
    return _received is not None


def interrupt_main() -> None:
    """Raise KeyboardInterrupt in the main thread without a signal; `received` does not change."""
    global _without_signal
    _without_signal = True
    _thread.interrupt_main(signal.SIGINT)


def print_sentence() -> None:
    """Print `SENTENCE` on standard error, at most once."""
    global _printed
    if not _printed:
        _printed = True
        with suppress(OSError, ValueError):  # the terminal may be closed
            print(SENTENCE, file=sys.stderr, flush=True)


def exit_now(status: Any) -> None:
    """Exit without Python's own shutdown, which waits for threads and may print a traceback."""
    with suppress(Exception):
        sys.stdout.flush()
    if status == STATUS and not _printed:
        with suppress(OSError):  # not `print`: the signal may have interrupted a print
            os.write(2, f"{SENTENCE}\n".encode())
    os._exit(status if isinstance(status, int) else 1)


def _exit(number: int, frame: FrameType | None) -> None:
    exit_now(STATUS)


def _raise(number: int, frame: FrameType | None) -> None:
    global _received, _without_signal
    if _without_signal:
        _without_signal = False
        raise KeyboardInterrupt
    now = time.monotonic()
    if _received is not None and now - _received < _REPEAT_SECONDS:
        return
    _received = now
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler) and handler not in (_raise, signal.default_int_handler):
        handler(signal.SIGINT, frame)
        return
    raise KeyboardInterrupt
