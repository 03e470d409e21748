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
        >>> clock.add(0.5)  # half of a second of work that two trainings shared
    """

    def __init__(self) -> None:
        self._total = 0.0
        self._began: float | None = None

    @property
    def seconds(self) -> float:
        """Sum of all work so far."""
        running = 0.0 if self._began is None else time.perf_counter() - self._began
        return self._total + running

    def start(self) -> None:
        """Start the clock; a clock that runs goes on."""
        if self._began is None:
            self._began = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock, if it runs."""
        self._total, self._began = self.seconds, None

    def add(self, seconds: float) -> None:
        """Add a share of work that wasn't timed by this clock."""
        self._total += seconds

    def reset(self, seconds: float) -> None:
        """Continue from the sum of an earlier process."""
        self._total, self._began = seconds, None

    def __enter__(self) -> WorkClock:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
