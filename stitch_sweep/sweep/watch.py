"""Tell the user that Ray has gone; Ray itself prints its log, or nothing, and ends the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from stitch_sweep.core import interrupts
from stitch_sweep.sweep import resources

EVERY_SECONDS = 5.0
_LOCAL_SECONDS = 0.2
_GRACE_SECONDS = 2.0
_END_SECONDS = 10.0
_RESUME = "Every trial that had ended is recorded; the same command with --resume goes on"


class Watch:
    """Watches Ray while the block lasts.

    A local Ray whose raylet or GCS server has died can't go on: the main thread is interrupted, and
    `failure` says why. Of a cluster the head is asked. Ray waits a minute for a head that has gone, in
    case it is started again with the state it had, and then ends the process where it stands: nobody can
    catch that, so the user is told before.

    Args:
        say: is given a line for the user.

    Attributes:
        failure: why the sweep can't go on; empty while it can.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.failure = ""
        self._say = say
        self._over = threading.Event()
        self._end: threading.Timer | None = None
        self._in_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Watch:
        import ray

        worker: Any = ray._private.worker
        node = worker._global_node
        self._print = worker.print_to_stdstream
        worker.print_to_stdstream = self._print_unless_dead
        look = (
            self._look_at_processes if node is not None and node.is_head() else self._look_at_head
        )
        self._thread = threading.Thread(target=look, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import ray

        self._over.set()
        self._thread.join()
        worker: Any = ray._private.worker
        worker.print_to_stdstream = self._print

    def close(self) -> None:
        """Ray has been shut down: the process need not be ended from here any more."""
        if self._end is not None:
            self._end.cancel()

    def _leave(self) -> None:
        if self.failure:
            self._say(f"error: {self.failure}")
        interrupts.leave(1 if self.failure else interrupts.STATUS)

    def _print_unless_dead(self, data: dict[str, Any], **options: Any) -> None:
        """Print what Ray says on standard error, and not the raylet's log after its death.

        Ray itself prints on standard output, which is for results.
        """
        if not resources.dead_processes():
            self._print({**data, "is_err": True}, **options)

    def _look_at_processes(self) -> None:
        while not self._over.wait(_LOCAL_SECONDS):
            if dead := resources.dead_processes():
                break
        else:
            return
        name, status = dead[0]
        # Batch systems end all processes of a job at once; then the signal to this one counts.
        if status in (0, -signal.SIGTERM) and self._over.wait(_GRACE_SECONDS):
            return
        if not interrupts.received():
            how = f"signal {-status}" if status < 0 else f"status {status}"
            self.failure = (
                f"the sweep stopped: Ray's process {name} on this machine ended ({how}), killed by the "
                f"system when memory ran out, or by somebody. {_RESUME}"
            )
        if not self._in_main:
            self._say(self.failure)
            return
        # A call of Ray's may wait a minute for what has died, and notice no interrupt.
        self._end = threading.Timer(_END_SECONDS, self._leave)
        self._end.daemon = True
        self._end.start()
        # Tune takes the first interrupt for a wish to end in peace, which it can't without Ray.
        while not self._over.wait(2 * _LOCAL_SECONDS):
            interrupts.interrupt_main()

    def _look_at_head(self) -> None:
        import ray

        address = ray.get_runtime_context().gcs_address
        answered = True
        while not self._over.wait(EVERY_SECONDS):
            before = answered
            try:
                resources.knock(address)
                answered = True
            except OSError:
                answered = False
            if before and not answered:
                self._say(
                    f"the head of the Ray cluster ({address}) does not answer; Ray waits for it for a "
                    "minute and then ends this process. Every trial that had ended is recorded: once "
                    "there is a cluster, the same command with --resume goes on"
                )
            elif answered and not before:
                self._say("the head of the Ray cluster answers again")
