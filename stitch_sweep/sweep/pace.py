"""The place and speed of a sweep's run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """The place and speed of a sweep's run; nothing in it changes a result.

    Attributes:
        address: of a Ray cluster; None for a local Ray.
        workers: upper limit of workers at the same time, if any.
        report_seconds: time between two reports of a long trial.
        checkpoint_seconds: time between two checkpoints of a long trial.
    """

    address: str | None
    workers: int | None
    report_seconds: float
    checkpoint_seconds: float
