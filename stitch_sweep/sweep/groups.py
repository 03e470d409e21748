"""Groups of trials that one worker trains side by side.

All trials of a group continue in the same receiver after the same layer, so that one pass of the frozen
network serves them. A group may have more trials than its pack has places: the next trial takes the place
of one that ends. Who shares a group with whom changes no result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stitch_sweep.sweep.rounds import StudyRounds

LONGEST = 4
"""Largest number of trials of a group, in multiples of its places."""

MOST_MISFITS = 64
"""Number of trials that don't fit after which a group gets no more, though others might fit."""

_SHARED_SETTINGS = ("batch_size", "frozen", "precision")
"""Settings under `training` that concern a whole pass, and are equal in a group."""


@dataclass(frozen=True)
class Assignment:
    """A trial, or a part of one, that a worker is to train.

    Attributes:
        rounds: of the trial's study.
        number: of the trial in its study.
        spec: what is recorded of a trial before it runs, with its id.
        until: number of completed epochs after which it waits; None if it runs to its end.
        needs_larger_share: whether it gets twice the share of a GPU.
        goes_alone: whether no other trial may be in its group, because it may kill its worker.
    """

    rounds: StudyRounds
    number: int
    spec: Mapping[str, Any]
    until: int | None
    needs_larger_share: bool = False
    goes_alone: bool = False

    @property
    def trial(self) -> str:
        """Id of the trial."""
        trial: str = self.spec["trial"]
        return trial

    def fits(self, other: Assignment) -> bool:
        """Return whether both trials may be in one group."""
        return not (self.goes_alone or other.goes_alone) and self._kind == other._kind

    @property
    def _kind(self) -> tuple[Any, ...]:
        training = self.spec["settings"]["training"]
        shared = [training.get(name) for name in _SHARED_SETTINGS]
        column = self.spec["receiver"], self.spec["receiver_layer"]
        return (*column, self.needs_larger_share, *shared)


@dataclass
class Group:
    """The trials of one worker.

    Attributes:
        width: number of places of its pack.
        assignments: trials that the worker has not yet ended or paused, by id.
    """

    width: int
    assignments: dict[str, Assignment] = field(default_factory=dict)

    def add(self, assignment: Assignment) -> None:
        """Add a trial."""
        self.assignments[assignment.trial] = assignment

    def as_config(self, share: float) -> dict[str, Any]:
        """Return the group as the configuration of a Tune trial; `read_group` is the inverse.

        Args:
            share: GPUs of a group, or its share of one.
        """
        larger = any(a.needs_larger_share for a in self.assignments.values())
        trials = [{"spec": a.spec, "until": a.until} for a in self.assignments.values()]
        return {
            "group": json.dumps({"width": self.width, "trials": trials}),
            "gpu": min(1.0, 2 * share) if larger else share,
            "larger": larger,
        }


def choose_size(width: int, column: int, total: int, idle: int, slots: int) -> int:
    """Return the number of trials of the next group.

    A group fills its places. It is longer if its column has enough trials for all workers, so that a
    place that becomes free is taken at once. It is shorter if other workers would get no trial.

    Args:
        width: number of places.
        column: number of trials that may start in the group's column.
        total: the same in all columns.
        idle: number of workers without a group, this one included.
        slots: number of workers.

    Example:
        >>> choose_size(8, column=20, total=100, idle=2, slots=2)
        10
        >>> choose_size(8, column=6, total=6, idle=3, slots=4)
        2
        >>> choose_size(1, column=20, total=100, idle=2, slots=2)
        1
    """
    if width == 1:
        return 1
    longest = min(LONGEST * width, max(width, math.ceil(column / slots)))
    return min(longest, max(1, math.ceil(total / max(1, idle))))
