"""A thread that keeps the copy of an experiment folder up to date."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from stitch_sweep.tracking.follower import PATIENCE_SECONDS, follow, join_while_progressing
from stitch_sweep.tracking.mirror import Mirror

POLL_SECONDS = 2.0


class Mirroring:
    """Keeps a mirror up to date. A slow or dead server delays its thread and nothing else.

    The thread lives as long as a `with` block. If the block ends without `finish`, no further file is
    sent.

    Args:
        mirror: the mirror; its `send` is called again and again.

    Attributes:
        error: the latest error; empty after a success.
        complete: whether everything was sent.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._over = threading.Event()
        self._abandoned = threading.Event()
        self._last_progress = time.monotonic()
        self.error = ""
        self.complete = False
        # A daemon, so that a call that hangs doesn't keep the sweep's process from ending.
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._abandoned.set()
        self._over.set()
        # With a limit: a thread that hangs in a call ends when the call does.
        self._thread.join(POLL_SECONDS)

    def finish(self, patience: float = PATIENCE_SECONDS) -> bool:
        """Send the rest.

        Args:
            patience: seconds to wait for a server that accepts nothing.

        Returns:
            Whether the copy is complete.
        """
        self._last_progress = time.monotonic()
        self._over.set()
        join_while_progressing(self._thread, lambda: self._last_progress, patience)
        return self.complete

    def _follow(self) -> None:
        self.complete = follow(
            self._send,
            self._over,
            self._note_error,
            poll_seconds=POLL_SECONDS,
            abandoned=self._abandoned,
        )

    def _send(self, last: bool) -> Iterator[None]:
        for _ in self._mirror.send():
            self._last_progress = time.monotonic()
            yield
        self.error = ""

    def _note_error(self, error: Exception, last: bool) -> bool:
        text = self._mirror.conceal(f"{type(error).__name__}: {error}")
        self.error = text.partition("\n")[0]
        return True
