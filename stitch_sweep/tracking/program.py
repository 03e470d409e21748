"""The program of the tracking process: `python -m stitch_sweep.tracking.program FOLDER EXPERIMENT`.

It reports each event to the sweep as a line on standard output: `sent TRIAL`, `artifact NAME`,
`error TEXT` for a possible outage, `refused TEXT` for a permanent error. It ends after
`finish` on standard input, or after the sweep's process.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock

from stitch_sweep.core.credentials import conceal
from stitch_sweep.core.untrusted import printable
from stitch_sweep.storage import layout
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.tracking.errors import explain
from stitch_sweep.tracking.follower import follow
from stitch_sweep.tracking.mlflow_address import local_database, resolve
from stitch_sweep.tracking.mlflow_tracker import PAGE_READ, Tracker

POLL_SECONDS = 0.5


def main(folder: Path, experiment: str, stdin: TextIO) -> int:
    """Send the trials of a sweep until it says `finish` or dies; return the exit status."""
    words: list[str] = []
    over = threading.Event()

    def listen() -> None:
        words.extend(stdin.read().split())
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    if hasattr(os, "nice"):  # not on Windows
        os.nice(19)  # trials come first
    uri = resolve(None)
    try:
        # Import before the sweep begins, because this takes seconds. `mlflow_setup` must come first.
        import_module("stitch_sweep.tracking.mlflow_setup")
        database: Any = import_module("mlflow.store.db.utils")
    except ImportError as error:
        _report("refused", explain(error, uri, experiment) or "")
        return 1
    # MLflow's ten attempts to open a database take more than the minute that a finished sweep waits.
    database.MAX_RETRY_COUNT = 1
    ledger = Ledger(folder)
    if not ledger.exists:
        _report_early_refusal(folder, experiment, uri)
    while not ledger.exists:
        if over.wait(POLL_SECONDS) and not ledger.exists:
            return 0  # the sweep never began
    # The tracking process of a killed sweep may still send that sweep's trials.
    with FileLock(ledger.root / layout.TRACKING_LOCK):
        sender = _Sender(lambda: Tracker(folder, experiment, None), words, uri, experiment)
        is_complete = follow(sender.send, over, sender.on_error, poll_seconds=POLL_SECONDS)
    return 0 if is_complete else 1


class _Sender:
    """Sends trials and, at the end, artifacts; reports successes and errors to the sweep.

    Args:
        connect: makes the tracker, and is called again after a failure: a database that can't be
            opened yet is a server that doesn't answer yet.
        words: lines that the sweep's process has written.
        uri: tracking URI.
        experiment: name of the MLflow experiment.
    """

    def __init__(
        self, connect: Callable[[], Tracker], words: list[str], uri: str, experiment: str
    ) -> None:
        self._connect = connect
        self._words = words
        self._uri = uri
        self._experiment = experiment
        self._tracker: Tracker | None = None
        self._refusal = ""
        self._most_pages = 0

    def send(self, last: bool) -> Iterator[None]:
        """Send what the server lacks; yield after each trial. See `follow`."""
        self._tracker = self._tracker or self._connect()
        for trial in self._tracker.send():
            _report("sent", trial)
            self._refusal = ""
            yield
        if last and "finish" in self._words:
            pages = 0
            for event in self._tracker.send_artifacts():
                # A page that was read in an earlier call is no progress: an upload may always fail.
                pages += event == PAGE_READ
                if event != PAGE_READ or pages > self._most_pages:
                    _report("artifact", event)
                self._most_pages = max(pages, self._most_pages)

    def on_error(self, error: Exception, last: bool) -> bool:
        """Report an error; return whether to try again. See `follow`."""
        if self._tracker is not None:
            self._tracker.forget_server_state()
        before, self._refusal = self._refusal, explain(error, self._uri, self._experiment) or ""
        # Reported at its second time, because two sweeps may collide for a moment.
        if self._refusal and self._refusal == before:
            _report("refused", self._refusal)
            if last:
                return False
        else:
            text = conceal(f"{type(error).__name__} {error}", self._uri)
            _report("error", printable(text.partition("\n")[0]))
        # Without a word the sweep's process has died, and waits for nothing.
        return not last or bool(self._words)


def _report_early_refusal(folder: Path, experiment: str, uri: str) -> None:
    """Report a permanent error before the sweep begins; create nothing on the server."""
    from mlflow.store.db import utils
    from sqlalchemy import inspect

    first = ""
    while True:
        try:
            # A query through MLflow would fill an empty or missing database with tables.
            if re.match(r"sqlite|postgresql|mysql|mssql", uri):
                file = local_database(uri)
                if file is not None and not file.is_file():
                    return
                if not inspect(utils.create_sqlalchemy_engine(uri)).has_table("experiments"):
                    return
            Tracker(folder, experiment, None).find_experiment()
            return
        except Exception as error:  # any exception of a server or its client
            problem = explain(error, uri, experiment)
            if problem is None:
                return  # an outage, which may be over when the sweep begins
            if problem == first:
                _report("refused", problem)
                return
            first = problem
            time.sleep(POLL_SECONDS)


def _report(*words: str) -> None:
    """Write a line for the sweep's process, if it still lives; its trials are sent in any case."""
    with contextlib.suppress(BrokenPipeError):
        print(*words, flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.stdin))
