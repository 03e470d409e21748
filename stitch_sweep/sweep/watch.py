"""Watch Ray and tell the user when it dies; Ray itself prints a log, or ends the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from stitch_sweep.core import interrupts
from stitch_sweep.sweep import ray_internals
from stitch_sweep.sweep.ray_connection import check_listening
from stitch_sweep.sweep.ray_setup import ray

HEAD_SECONDS = 5.0
"""Seconds between two checks of a cluster's head."""
_LOCAL_SECONDS = 0.2
_GRACE_SECONDS = 2.0
_END_SECONDS = 10.0
_RESUME = "All ended trials are recorded; run the same command with --resume to continue"


class Watch:
    """Watches Ray while the block lasts.

    A local Ray can't continue without its raylet or GCS server: if one of them dies, the main thread is
    interrupted, and `failure` gives the reason. Of a cluster, the head is checked. Ray waits a minute
    for a lost head, in case it is restarted with its state, and then ends this process. No handler
    can prevent that, so the user gets a message before.

    Args:
        say: is called with a line for the user.

    Attributes:
        failure: why the sweep can't continue; empty while it can.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.failure = ""
        self._say = say
        self._over = threading.Event()
        self._end: threading.Timer | None = None
        self._in_main = threading.current_thread() is threading.main_thread()
        self._stack = ExitStack()

    def __enter__(self) -> Watch:
        self._stack.enter_context(ray_internals.replace_log_printer(self._make_printer))
        watch = self._watch_processes if ray_internals.is_local_head() else self._watch_head
        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._stack.close()

    def close(self) -> None:
        """Keep the process alive: Ray has been shut down, so nothing can block any more."""
        if self._end is not None:
            self._end.cancel()

    def _leave(self) -> None:
        if self.failure:
            self._say(f"error: {self.failure}")
        interrupts.exit_now(1 if self.failure else interrupts.STATUS)

    @staticmethod
    def _make_printer(printer: ray_internals.Printer) -> ray_internals.Printer:
        def print_unless_dead(data: dict[str, Any], **options: Any) -> None:
            """Print Ray's messages on standard error, but not the raylet's log after its death."""
            if not ray_internals.find_dead_processes():
                printer({**data, "is_err": True}, **options)

        return print_unless_dead

    def _watch_processes(self) -> None:
        while not self._over.wait(_LOCAL_SECONDS):
            if dead := ray_internals.find_dead_processes():
                break
        else:
            return
        name, status = dead[0]
        # Batch systems end all processes of a job at once; then the signal to this process counts.
        if status in (0, -signal.SIGTERM) and self._over.wait(_GRACE_SECONDS):
            return
        if not interrupts.received():
            cause = f"signal {-status}" if status < 0 else f"status {status}"
            self.failure = (
                f"the sweep stopped: Ray's process {name} on this machine ended ({cause}): the system "
                f"may have killed it because memory ran out. {_RESUME}"
            )
        if not self._in_main:
            self._say(self.failure)
            return
        # A call to Ray may wait a minute for the dead process, and notice no interrupt.
        self._end = threading.Timer(_END_SECONDS, self._leave)
        self._end.daemon = True
        self._end.start()
        # Tune takes the first interrupt for a request to end gracefully, which it can't without Ray.
        while not self._over.wait(2 * _LOCAL_SECONDS):
            interrupts.interrupt_main()

    def _watch_head(self) -> None:
        address = ray.get_runtime_context().gcs_address
        answers = True
        while not self._over.wait(HEAD_SECONDS):
            answered_before = answers
            try:
                check_listening(address)
                answers = True
            except OSError:
                answers = False
            if answered_before and not answers:
                self._say(
                    f"the head of the Ray cluster ({address}) does not answer; Ray waits for it for a "
                    "minute and then ends this process. All ended trials are recorded: once "
                    "a cluster runs, run the same command with --resume to continue"
                )
            elif answers and not answered_before:
                self._say("the head of the Ray cluster answers again")
