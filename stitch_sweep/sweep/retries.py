"""How often a trial, or the training of a network, is retried after a lost worker or machine."""

from __future__ import annotations

from collections import Counter

RETRIES = 3
"""Number of retries without progress between them, of a trial or of the training of a network."""


class FailureCounter:
    """Count the failures of each trial since its last progress."""

    def __init__(self) -> None:
        self._failures: Counter[tuple[str, int | None]] = Counter()

    def allows_retry(self, trial: str, progress: int | None) -> bool:
        """Count a failure; return whether the trial may be retried.

        A long trial may outlive many nodes, so only failures without progress between them count.

        Args:
            trial: name of the trial.
            progress: time of the trial's newest checkpoint, None without one; a new value starts a
                new count.
        """
        self._failures[trial, progress] += 1
        return self._failures[trial, progress] <= RETRIES

    def count(self, trial: str, progress: int | None) -> int:
        """Return the number of failures of a trial without progress between them."""
        return self._failures[trial, progress]
