"""The program of a logger's process: `python -m stitch_sweep.tracking.program FOLDER LOGGER ARGUMENTS`.

It reports each event to the sweep as a line on standard output: `sent TRIAL`, `artifact NAME`, `alive`
for an answer after an outage, `error TEXT` for a single error, `outage TEXT` for errors that go on,
`refused TEXT` for a permanent error. It ends after `finish` on standard input, or after the sweep's
process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from filelock import FileLock

from stitch_sweep.core.credentials import conceal
from stitch_sweep.core.untrusted import printable
from stitch_sweep.storage import layout
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.tracking.follower import follow
from stitch_sweep.tracking.logger import Destination, Logger
from stitch_sweep.tracking.mlflow_destination import MlflowDestination
from stitch_sweep.tracking.mlflow_tracker import PAGE_READ
from stitch_sweep.tracking.tensorboard_logger import TensorBoardDestination
from stitch_sweep.tracking.wandb_logger import WandbDestination

POLL_SECONDS = 0.5
PROBE_SECONDS = 2.0
"""Seconds between two checks whether a server answers at all."""
GRACE_VARIABLE = "STITCH_SWEEP_GRACE_SECONDS"
GRACE_SECONDS = 30.0
"""Seconds after the end of the sweep's process, by whatever signal, after which this process ends; the
environment variable `GRACE_VARIABLE` replaces it."""
_WATCH_SECONDS = 0.5

_DESTINATIONS = {
    "mlflow": MlflowDestination,
    "tensorboard": TensorBoardDestination,
    "wandb": WandbDestination,
}


def main(folder: Path, name: str, arguments: list[str], stdin: TextIO) -> int:
    """Send the trials of a sweep until it says `finish` or dies; return the exit status."""
    words: list[str] = []
    over = threading.Event()

    def listen() -> None:
        words.extend(stdin.read().split())
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    threading.Thread(target=_end_after_parent, args=[os.getppid()], daemon=True).start()
    if hasattr(os, "nice"):  # not on Windows
        os.nice(19)  # trials come first
    destination: Destination = _DESTINATIONS[name](*arguments)
    try:
        destination.load()  # before the sweep begins, because this takes seconds
    except ImportError as error:
        _report("refused", destination.explain(error) or str(error))
        return 1
    ledger = Ledger(folder)
    if not ledger.exists:
        _report_early_refusal(destination, folder)
    while not ledger.exists:
        if over.wait(POLL_SECONDS) and not ledger.exists:
            return 0  # the sweep never began
    # The process of a killed sweep may still send that sweep's trials.
    lock = layout.TRACKING_LOCK if name == "mlflow" else f"{name}.lock"
    with FileLock(ledger.root / lock):
        sender = _Sender(destination, folder, words)
        threading.Thread(target=sender.probe, daemon=True).start()
        is_complete = follow(sender.send, over, sender.on_error, poll_seconds=POLL_SECONDS)
    return 0 if is_complete else 1


class _Sender:
    """Sends trials and, at the end, the rest; reports successes and errors to the sweep.

    Args:
        destination: makes the logger, and is asked again after a failure: a database that can't be opened
            yet is a server that doesn't answer yet.
        folder: the experiment folder.
        words: lines that the sweep's process has written.
    """

    def __init__(self, destination: Destination, folder: Path, words: list[str]) -> None:
        self._destination = destination
        self._folder = folder
        self._words = words
        self._logger: Logger | None = None
        self._refusal = ""
        self._errors = 0
        self._is_silent = False  # by the probes
        self._most_pages = 0

    def send(self, last: bool) -> Iterator[None]:
        """Send what the receiver lacks; yield after each trial. See `follow`."""
        self._logger = self._logger or self._destination.connect(self._folder)
        for trial in self._logger.send():
            self._refusal, self._errors = "", 0
            _report("sent", trial)
            yield
        if self._errors and not self._is_silent:
            _report("alive")
        self._refusal, self._errors = "", 0
        if last and "finish" in self._words:
            pages = 0
            for event in self._logger.send_end():
                # A page that was read in an earlier call is no progress: an upload may always fail.
                pages += event == PAGE_READ
                if event != PAGE_READ or pages > self._most_pages:
                    _report("artifact", event)
                self._most_pages = max(pages, self._most_pages)

    def on_error(self, error: Exception, last: bool) -> bool:
        """Report an error; return whether to try again. See `follow`."""
        if self._logger is not None:
            self._logger.forget_server_state()
        self._errors += 1
        before, self._refusal = self._refusal, self._destination.explain(error) or ""
        # Reported at its second time, because two sweeps may collide for a moment.
        if self._refusal and self._refusal == before:
            _report("refused", self._refusal)
            if last:
                return False
        else:
            text = conceal(f"{type(error).__name__} {error}", getattr(self._destination, "uri", ""))
            kind = "error" if self._errors == 1 or self._refusal else "outage"
            _report(kind, printable(text.partition("\n")[0]))
        # Without a word the sweep's process has died, and waits for nothing.
        return not last or bool(self._words)

    def probe(self) -> None:
        """Ask again and again whether the server answers; report when that changes.

        Nothing may have to be sent for a long time, and a transfer may hang, so this is a thread.
        """
        while True:
            began = time.monotonic()
            is_silent = not self._destination.answers()
            if is_silent and time.monotonic() - began < PROBE_SECONDS:
                # Ask again, because a busy server may refuse a single connection.
                is_silent = not self._destination.answers()
            if is_silent and not self._is_silent:
                _report("outage", "no answer to a request")
            elif self._is_silent and not is_silent:
                self._errors = 0  # if transfers fail for another reason, they fail again
                _report("alive")
            self._is_silent = is_silent
            time.sleep(PROBE_SECONDS)


def _report_early_refusal(destination: Destination, folder: Path) -> None:
    """Report a permanent error before the sweep begins; create nothing at the receiver."""
    first = ""
    while True:
        try:
            destination.check_early(folder)
            return
        except Exception as error:  # any exception of a server or its client
            problem = destination.explain(error)
            if problem is None:
                return  # an outage, which may be over when the sweep begins
            if problem == first:
                _report("refused", problem)
                return
            first = problem
            time.sleep(POLL_SECONDS)


def _end_after_parent(parent: int) -> None:
    """End this process some time after the sweep's process, whatever a call waits for."""
    grace = float(os.environ.get(GRACE_VARIABLE) or GRACE_SECONDS)
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    time.sleep(grace)
    os._exit(1)


def _report(*words: str) -> None:
    """Write a line for the sweep's process, if it still lives; its trials are sent in any case."""
    with contextlib.suppress(BrokenPipeError):
        print(*words, flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:], sys.stdin))
