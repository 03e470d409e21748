"""The studies that may have trials to start, in the order in which they are served."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator

from stitch_sweep.sweep.rounds import StudyRounds

Column = tuple[str, int]
"""A receiver and one of its layers. Only trials of one column can train in one pass."""


class StudyQueue:
    """A queue of studies, which can also be served column by column."""

    def __init__(self) -> None:
        # Each study has a place; a lower place is served earlier.
        self._columns: dict[Column, OrderedDict[StudyRounds, int]] = {}
        self._places_behind = itertools.count()
        self._places_before = itertools.count(-1, -1)

    def append(self, rounds: StudyRounds) -> None:
        """Add a study at the end."""
        self._column(rounds)[rounds] = next(self._places_behind)

    def put_first(self, rounds: StudyRounds) -> None:
        """Add a study at the front, or move it there."""
        column = self._column(rounds)
        column[rounds] = next(self._places_before)
        column.move_to_end(rounds, last=False)

    def remove(self, rounds: StudyRounds) -> None:
        """Remove a study that has no trial to start now."""
        self._column(rounds).pop(rounds, None)

    def first(self) -> StudyRounds | None:
        """Return the first study; None if the queue is empty."""
        heads = [next(iter(column.items())) for column in self._columns.values() if column]
        return min(heads, key=lambda head: head[1])[0] if heads else None

    def column(self, column: Column) -> Iterator[StudyRounds]:
        """Iterate over the studies of a column, in order; studies may be removed meanwhile."""
        return iter(list(self._columns.get(column, ())))

    def count_ready(self, most: int, column: Column | None = None) -> int:
        """Count the trials that may start now, in all columns or in one; stop counting at `most`."""
        chosen = self._columns if column is None else {column} & self._columns.keys()
        count = 0
        for rounds in itertools.chain.from_iterable(self._columns[key] for key in chosen):
            count += rounds.ready_at_most
            if count >= most:
                return most
        return count

    def _column(self, rounds: StudyRounds) -> OrderedDict[StudyRounds, int]:
        study = rounds.study
        return self._columns.setdefault((study.receiver, study.receiver_layer), OrderedDict())
