"""The conditions of `search.stop`, applied to a study's results.

`search.stop.trials` is a matter of sizes; see `plan.sizes.allot_trials`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stitch_sweep.config.root import Config
from stitch_sweep.plan.sizes import allot_trials, count_trials
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.study import Study

StopReason = Literal["trials", "target", "patience"]
"""The key of `search.stop` that left a trial out."""


class StudyStopper:
    """Decides when a study gets no further trials.

    The decision depends on the study's results alone, in the order of their numbers.

    Args:
        config: the configuration.

    Attributes:
        reason: the condition that ended the study; None while it goes on.
    """

    def __init__(self, config: Config) -> None:
        self._search = config.search
        self._sign = -1.0 if config.search.mode == "min" else 1.0
        self._best = -math.inf
        self._without_improvement = 0
        self.reason: StopReason | None = None

    def add_round(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add the ended trials of a whole round, in order.

        A trial that failed or was stopped early improves nothing. Before the first finished trial there
        is no best one, and so nothing that could improve.
        """
        stop = self._search.stop
        if stop is None or not stop.ends_studies:
            return
        for record in records:
            value = self._value(record, self._search.metric)
            if value is not None and self._sign * value > self._best:
                self._best, self._without_improvement = self._sign * value, 0
            elif self._best > -math.inf:
                self._without_improvement += 1
            if self.reason is None and self._is_on_target(record):
                self.reason = "target"
            elif self.reason is None and self._without_improvement == stop.patience:
                self.reason = "patience"

    def _is_on_target(self, record: Mapping[str, Any]) -> bool:
        stop = self._search.stop
        if stop is None or stop.target is None:
            return False
        metric = stop.metric or self._search.metric
        value = self._value(record, metric)
        if value is None:
            return False
        return value <= stop.target if metric == "val_loss" else value >= stop.target

    @staticmethod
    def _value(record: Mapping[str, Any], metric: str) -> float | None:
        """Return a finished trial's finite value of a metric; None without one."""
        if record["status"] != "finished":
            return None
        value = record["metrics"].get(metric)
        return value if value is not None and math.isfinite(value) else None


@dataclass
class Remainder:
    """How far a sweep has come.

    Attributes:
        ended: number of ended trials.
        missing: upper bound on the number of trials that are still to run.
        left_out: number of trials that `search.stop` leaves out, by the condition.
    """

    ended: int = 0
    missing: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def find_remainder(
    ledger: Ledger,
    studies: Iterable[Study],
    config: Config,
    visit: Callable[[Mapping[str, Any]], object] = lambda record: None,
) -> Remainder:
    """Count the trials that have ended, are still to run, or are left out by `search.stop`.

    Args:
        ledger: of the sweep.
        studies: of the sweep.
        config: the configuration.
        visit: is called with the record of each ended trial.

    Raises:
        RecordError: a record can't be used.
    """
    studies = list(studies)
    trials = ledger.trial_ids()
    round_size = config.search.parallel_per_study
    remainder = Remainder()
    for study, total, allotted in zip(
        studies, count_trials(config, studies), allot_trials(config, studies), strict=True
    ):
        records = [
            ledger.read(trial) if (trial := study.trial(number)) in trials else None
            for number in range(total)
        ]
        has_ended = [r is not None and r["status"] != "running" for r in records]
        remainder.left_out["trials"] += total - allotted - sum(has_ended[allotted:])
        remainder.ended += sum(has_ended)
        for record, ended in zip(records, has_ended, strict=True):
            if record is not None and ended:
                visit(record)
        stopper, end = StudyStopper(config), 0
        while end < allotted and not stopper.reason:
            following = min(end + round_size, allotted)
            if not all(has_ended[end:following]):
                break
            stopper.add_round(record for record in records[end:following] if record is not None)
            end = following
        lacking = allotted - end - sum(has_ended[end:allotted])
        if stopper.reason:
            remainder.left_out[stopper.reason] += lacking
        else:
            remainder.missing += lacking
    remainder.left_out = +remainder.left_out
    return remainder
