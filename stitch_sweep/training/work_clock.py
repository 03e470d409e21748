"""The seconds that a training takes for itself, when several take turns in one process."""

from __future__ import annotations

import time


class WorkClock:
    """Adds up the time of a training's work, on the wall clock. The time between is others'.

    Attributes:
        seconds: sum so far, with the time since the clock started, if it runs.

    Example:
        >>> with clock:
        ...     train()
        >>> clock.start(share=0.5)  # work that two trainings share
    """

    def __init__(self) -> None:
        self._total = 0.0
        self._began: float | None = None
        self._share = 1.0

    @property
    def seconds(self) -> float:
        """Sum of all work so far."""
        running = 0.0 if self._began is None else time.perf_counter() - self._began
        return self._total + running * self._share

    def start(self, share: float = 1.0) -> None:
        """Start the clock, which doesn't run.

        Args:
            share: the part of the work that is the training's.
        """
        self._began, self._share = time.perf_counter(), share

    def stop(self) -> None:
        """Stop the clock, if it runs."""
        self._total, self._began = self.seconds, None

    def reset(self, seconds: float) -> None:
        """Continue from the sum of an earlier process."""
        self._total, self._began = seconds, None

    def __enter__(self) -> WorkClock:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
