"""The segments of a round's trials: where they wait, and which of them are stopped there.

With `search.scheduler`, a trial runs to its next rung, a number of completed epochs. There it is stored
and waits. When every trial of the round has come this far, or has ended before, the scheduler decides
once which of them end. Decisions aren't stored: they depend on stored results only, so a resume
makes the same ones again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from stitch_sweep.plan.schedulers import Scheduler
from stitch_sweep.storage.ledger import PAUSED_AT


class RoundSegments:
    """The rungs of one round, and the decisions that were made at them.

    Args:
        scheduler: of the study; None if no trial is stopped early.
        epochs: number of epochs of every trial that decisions concern, by trial number.
    """

    def __init__(self, scheduler: Scheduler | None, epochs: Mapping[int, int]) -> None:
        self._scheduler = scheduler
        self._rungs: dict[int, list[int]] = {}
        if scheduler is not None:
            self._rungs = {number: scheduler.rungs(number, e) for number, e in epochs.items()}
        self._remaining = sorted({rung for rungs in self._rungs.values() for rung in rungs})

    def is_waiting(self, number: int, record: Mapping[str, Any] | None) -> bool:
        """Return whether a running trial waits for a decision."""
        paused_at = paused_epoch(record)
        return number in self._rungs and paused_at in self._remaining

    def next_rung(self, number: int, record: Mapping[str, Any] | None) -> int | None:
        """Return the epoch after which a running trial waits next; None if it runs to its end."""
        paused_at = paused_epoch(record)
        return next((rung for rung in self._rungs.get(number, ()) if rung > paused_at), None)

    def is_due(self, records: Mapping[int, Mapping[str, Any]]) -> bool:
        """Return whether all trials of the round have come to the next rung, or have ended before.

        Args:
            records: the records of the round's trials, by number.
        """
        if self._scheduler is None or not self._remaining:
            return False
        epoch = self._remaining[0]
        for number in self._rungs:
            record = records.get(number)
            if record is None or (record["status"] == "running" and paused_epoch(record) < epoch):
                return False
        return True

    def decide(
        self,
        records: Mapping[int, Mapping[str, Any]],
        histories: Mapping[int, Sequence[float]],
        finished: Collection[int],
    ) -> list[int]:
        """Decide which trials end at the next rung. Only called if the decision is due.

        Args:
            records: the records of the round's trials, by number.
            histories: the search metric after each epoch, of all trials of earlier rounds and of the
                trials that decisions concern.
            finished: numbers of the finished trials of earlier rounds.

        Returns:
            The numbers of the running trials that end where they wait.
        """
        assert self._scheduler is not None
        epoch = self._remaining.pop(0)
        arrived = [
            number
            for number, rungs in sorted(self._rungs.items())
            if epoch in rungs and len(histories[number]) >= epoch
        ]
        visible = {
            number: history[:epoch] if number in self._rungs else history
            for number, history in histories.items()
        }
        stopped = self._scheduler.stops(epoch, arrived, visible, finished) if arrived else set()
        return [number for number in sorted(stopped) if records[number]["status"] == "running"]


def paused_epoch(record: Mapping[str, Any] | None) -> int:
    """Return the number of epochs after which a running trial was stored last; 0 if it never was."""
    paused_at: int = 0 if record is None else record.get(PAUSED_AT, 0)
    return paused_at
