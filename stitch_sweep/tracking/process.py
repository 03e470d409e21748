"""The processes of a sweep's loggers, as the sweep's process controls them.

A slow or dead server delays logging and nothing else, because a separate process feeds each logger from
the ledger.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from stitch_sweep.core.credentials import conceal
from stitch_sweep.tracking.follower import PATIENCE_SECONDS, join_while_progressing
from stitch_sweep.tracking.mlflow_address import VARIABLE, resolve

_LONGEST = 160
"""Maximum length of an error in a message; clients quote whole requests."""


class LoggerProcess:
    """Starts a logger as a process beside the sweep, and listens to its reports.

    The process ends by itself after the sweep's process, once it has sent the ledger's trials.

    Args:
        folder: the experiment folder.
        title: of the receiver, for messages.
        arguments: name of the logger for `tracking.program`, and its arguments.
        say: is called, from a thread, when the receiver stops answering or refuses the runs, and when it
            accepts them again.
        root: the current folder of the process; by default that of this process.
        hidden: names of environment variables whose values messages must not contain.
        environment: further environment variables of the process.

    Attributes:
        title: of the receiver.
        sent: number of trials sent so far.
        error: the latest error, which may be an outage; empty after a success.
        refusal: the permanent reason why the receiver accepts no runs, with the remedy; or empty.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        arguments: Sequence[str],
        say: Callable[[str], object] = lambda _: None,
        *,
        root: Path | None = None,
        hidden: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        program = "stitch_sweep.tracking.program"
        self._process = subprocess.Popen(
            # Without -P, a user's file in the current folder could replace a module.
            [sys.executable, "-P", "-m", program, str(folder.absolute()), *arguments],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Ctrl-C is for the sweep, which then lets this process finish.
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        self.title = title
        self.sent = 0
        self.error = self.refusal = ""
        self._say = say
        self._hidden = tuple(hidden)
        self._reported = ""
        self._last_progress = time.monotonic()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def finish(self, patience: float = PATIENCE_SECONDS) -> bool:
        """Let the process send the remaining results.

        A server that refuses gets a single further request; the method doesn't wait for it.

        Args:
            patience: seconds to wait for a server that accepts nothing.

        Returns:
            Whether the receiver has everything.
        """
        assert self._process.stdin is not None
        self._last_progress = time.monotonic()
        try:
            self._process.stdin.write("finish\n")
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        join_while_progressing(self._thread, lambda: self._last_progress, patience)
        if self._thread.is_alive():
            self._process.kill()
        elif self._process.wait() and not self.error:
            self.error = f"the tracking process ended with status {self._process.returncode}"
        return self._process.wait() == 0

    def abandon(self) -> None:
        """End the process at once: the sweep was refused. Runs that were sent stay on the server."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, _, text = line.strip().partition(" ")
            if kind in ("refused", "error", "outage"):
                text = conceal(text, variables=self._hidden)
            if kind == "refused":
                self.error = self.refusal = text
                if text != self._reported:
                    self._say(
                        f"{self.title} accepts no runs: {text}. The sweep continues without it"
                    )
                    self._reported = text
            elif kind in ("error", "outage"):
                self.error, self.refusal = text, ""
                if kind == "outage" and not self._reported:
                    reason = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
                    self._say(
                        f"{self.title} does not answer ({reason}). The sweep continues, and its results "
                        "are sent when it answers again"
                    )
                    self._reported = text
            else:
                self.sent += kind == "sent"
                self._last_progress = time.monotonic()
                self.error = self.refusal = ""
                if self._reported:
                    self._say(f"{self.title} accepts runs again")
                    self._reported = ""


class TrackingProcess(LoggerProcess):
    """The process that feeds MLflow.

    Args:
        folder: the experiment folder.
        experiment: name of the MLflow experiment.
        uri: tracking URI or None.
        say: see `LoggerProcess`.
        root: the project's root, where MLflow puts what has no other place; default: the current folder.
        hidden: see `LoggerProcess`.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        uri: str | None,
        say: Callable[[str], object] = lambda _: None,
        *,
        root: Path | None = None,
        hidden: Iterable[str] = (),
    ) -> None:
        super().__init__(
            folder,
            "MLflow",
            ["mlflow", experiment],
            say,
            root=root,
            hidden=hidden,
            # A URI may contain a password, and arguments can be read by other users.
            environment={VARIABLE: resolve(uri)},
        )
