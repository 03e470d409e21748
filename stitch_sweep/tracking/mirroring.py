"""A thread that keeps the copy of an experiment folder up to date."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from stitch_sweep.tracking.follower import PATIENCE_SECONDS, FollowerThread
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
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self.error = ""
        self._thread = FollowerThread(self._send, self._note_error, POLL_SECONDS)

    @property
    def complete(self) -> bool:
        """Whether everything was sent."""
        return self._thread.complete

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.abandon()
        # With a limit: a thread that hangs in a call ends when the call does.
        self._thread.join(POLL_SECONDS)

    def finish(self, patience: float = PATIENCE_SECONDS) -> bool:
        """Send the rest.

        Args:
            patience: seconds to wait for a server that accepts nothing.

        Returns:
            Whether the copy is complete.
        """
        self._thread.finish(patience)
        return self.complete

    def _send(self, last: bool) -> Iterator[None]:
        for _ in self._mirror.send():
            yield
        self.error = ""

    def _note_error(self, error: Exception, last: bool) -> bool:
        text = self._mirror.conceal(f"{type(error).__name__}: {error}")
        self.error = text.partition("\n")[0]
        return True
