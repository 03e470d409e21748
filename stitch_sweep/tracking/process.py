"""The tracking process of a sweep, as the sweep's process controls it.

A slow or dead tracking server delays logging and nothing else, because a separate process feeds MLflow
from the ledger.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from stitch_sweep.core.credentials import conceal
from stitch_sweep.tracking.follower import PATIENCE_SECONDS, join_while_progressing
from stitch_sweep.tracking.mlflow_address import VARIABLE, resolve


class TrackingProcess:
    """Starts the tracker as a process beside the sweep, and listens to its reports.

    The process ends by itself after the sweep's process, once it has sent the ledger's trials.

    Args:
        folder: the experiment folder.
        experiment: name of the MLflow experiment.
        uri: tracking URI or None.
        say: is called once, from a thread, when MLflow refuses the runs, and when it accepts them again.
        root: the project's root, where MLflow puts what has no other place; default: the current folder.
        hidden: names of environment variables whose values messages must not contain.

    Attributes:
        sent: number of trials sent so far.
        error: the latest error, which may be an outage; empty after a success.
        refusal: the permanent reason why MLflow accepts no runs, with the remedy; or empty.
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
        program = "stitch_sweep.tracking.program"
        self._process = subprocess.Popen(
            # Without -P, a user's file in the current folder could replace a module.
            [sys.executable, "-P", "-m", program, str(folder.absolute()), experiment],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Ctrl-C is for the sweep, which then lets this process finish.
            start_new_session=True,
            # A URI may contain a password, and arguments can be read by other users.
            env={**os.environ, VARIABLE: resolve(uri)},
        )
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
            Whether MLflow has everything.
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
            if kind in ("refused", "error"):
                text = conceal(text, variables=self._hidden)
            if kind == "refused":
                self.error = self.refusal = text
                if text != self._reported:
                    self._say(f"MLflow accepts no runs: {text}. The sweep continues without it")
                    self._reported = text
            elif kind == "error":
                self.error, self.refusal = text, ""
            else:
                self.sent += kind == "sent"
                self._last_progress = time.monotonic()
                self.error = self.refusal = ""
                if self._reported:
                    self._say("MLflow accepts runs again")
                    self._reported = ""
