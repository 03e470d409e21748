"""Says when a cluster's head doesn't answer; Ray itself says nothing of a sweep that can go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stitch_sweep.sweep.resources import knock

EVERY_SECONDS = 5.0


@contextmanager
def watched(say: Callable[[str], None]) -> Iterator[None]:
    """Look at the head of the cluster that we have joined, while the block lasts.

    Ray waits a minute for a head that has gone, in case it is started again with the state it had, and
    then ends the process where it stands: nobody can catch that, so the user is told before.

    Args:
        say: is given a line for the user.
    """
    import ray

    address = ray.get_runtime_context().gcs_address
    over = threading.Event()

    def look() -> None:
        answered = True
        while not over.wait(EVERY_SECONDS):
            before = answered
            try:
                knock(address)
                answered = True
            except OSError:
                answered = False
            if before and not answered:
                say(
                    f"the head of the Ray cluster ({address}) does not answer; Ray waits for it for a "
                    "minute and then ends this process. Every trial that had ended is recorded: once "
                    "there is a cluster, the same command with --resume goes on"
                )
            elif answered and not before:
                say("the head of the Ray cluster answers again")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
