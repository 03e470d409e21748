"""The progress of one study: the trials that may start now, and the results that are awaited.

A study's trials run in rounds of `search.parallel_per_study`. The next round's suggestions wait for all
results of the round before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.plan.neighbors import shared_settings, shared_stitch
from stitch_sweep.plan.objectives import learning_curve
from stitch_sweep.plan.schedulers import build_scheduler
from stitch_sweep.plan.stopping import StudyStopper
from stitch_sweep.plan.study_search import StudySearch
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.segments import RoundSegments

Record = dict[str, Any]


class NextTrial(NamedTuple):
    """A trial that may start or continue now.

    Attributes:
        number: of the trial.
        params: its searched settings.
        settings: all settings.
        original: the record of an equal trial with a result, to be copied; None to train.
        until: number of completed epochs after which it waits; None if it runs to its end.
        start: the trial whose stitch it starts from, with the stitch's checksum (`trial`, `sha256`); None
            if it starts as its settings say.
    """

    number: int
    params: dict[str, Any]
    settings: TrialSettings
    original: Record | None
    until: int | None
    start: dict[str, str] | None


class StudyRounds:
    """Hands out the trials of a study in rounds.

    Args:
        study: the study.
        total: number of trials that the study may run.
        config: the configuration.
        records: of the trials, by number; None where a trial has none.
        key: returns a text that is equal for settings with equal results; see `EffectiveSettings`.
        stop: ends a paused trial where it waits, from its id and metric; returns its record.
        parents: records of the best trials of the studies that it learns from, a list for each; see
            `plan.neighbors`.
        shape: returns the shape of a network's layer; without it, no trial starts from another one's
            stitch.

    Attributes:
        left_out: number of trials that `search.stop` has left out because of the study's results.
    """

    def __init__(
        self,
        study: Study,
        total: int,
        config: Config,
        records: Sequence[Record | None],
        key: Callable[[Study, TrialSettings], str],
        stop: Callable[[str, float], Record],
        parents: Sequence[Sequence[Record]] = (),
        shape: Callable[[str, int], Shape] | None = None,
    ) -> None:
        self.study = study
        self._config = config
        self._key = key
        self._stop = stop
        self._parents = parents
        self._shape = shape
        self._total = total
        self._size = config.search.parallel_per_study
        self._records: dict[int, Record] = {n: r for n, r in enumerate(records) if r}
        self._result_count = 0
        self._handed_out: set[int] = set()
        self._has_waiting_copy = False
        # Built at the study's first trial: 10,000 of them take memory.
        self._search: StudySearch | None = None
        self._segments: RoundSegments | None = None
        self._params: list[dict[str, Any]] = []  # Optuna's suggestions, in order
        self._settings: dict[int, TrialSettings] = {}  # of the current round
        self._curves: dict[int, list[float]] = {}  # of ended trials, for decisions
        self._keys: list[tuple[str, str | None]] = []
        self._stopper = StudyStopper(config)
        self.left_out = 0

    @property
    def is_complete(self) -> bool:
        """Whether all trials that may run have ended, and `next` has no more."""
        return self._result_count == self._total

    @property
    def ready_at_most(self) -> int:
        """Upper limit on the number of trials that `next` would return now."""
        records = (self._records.get(n) for n in self._round if n not in self._handed_out)
        return sum(record is None or record["status"] == "running" for record in records)

    def next(self) -> NextTrial | None:
        """Return the next trial that may start or continue now, or None."""
        self._settle()
        self._has_waiting_copy = False
        for number in self._round:
            record = self._records.get(number)
            if number in self._handed_out or (record and record["status"] != "running"):
                continue
            self._ask_up_to(number)
            original, must_wait = self._find_original(number)
            if must_wait:
                self._has_waiting_copy = True
                continue
            segments = self._open_segments()
            if segments.is_waiting(number, record):
                continue
            self._handed_out.add(number)
            return NextTrial(
                number,
                self._params_of(number),
                self._settings_of(number),
                original,
                segments.next_rung(number, record),
                self._start_of(number),
            )
        return None

    def take_back(self, number: int) -> None:
        """Let `next` hand out a trial once more."""
        self._handed_out.discard(number)

    def add_result(self, number: int, record: Record) -> bool:
        """Add the record of an ended or paused trial; return whether `next` may now return more."""
        self._records[number] = record
        self._handed_out.discard(number)
        if self._config.search.scheduler is not None or self._has_waiting_copy:
            return True
        return not any(other in self._handed_out for other in self._round)

    @property
    def _round(self) -> range:
        """The numbers of the current round."""
        return range(self._result_count, min(self._result_count + self._size, self._total))

    def _settle(self) -> None:
        """Tell Optuna the results of complete rounds, and stop the trials that end at their rung."""
        while self._tell_round() or self._stop_trials():
            pass

    def _tell_round(self) -> bool:
        """Tell Optuna the results of the current round, in order; return False if one is missing.

        The round may be the last one by the conditions of `search.stop`.
        """
        records = [self._records.get(number) for number in self._round]
        if not records or any(r is None or r["status"] == "running" for r in records):
            return False
        numbers = self._round
        self._ask_up_to(numbers[-1])
        # The recorded parameters count, even if this version of Optuna suggests others.
        for number in numbers:
            self._open_search().tell_record(self._records[number])
        self._result_count = numbers.stop
        self._stopper.add_round(self._records[number] for number in numbers)
        if self._stopper.reason:
            self.left_out, self._total = self._total - numbers.stop, numbers.stop
        self._segments = None
        self._settings.clear()
        return True

    def _stop_trials(self) -> bool:
        """Make the next decision about paused trials; return False if none is due."""
        if self._config.search.scheduler is None or self.is_complete:
            return False
        segments = self._open_segments()
        if not segments.is_due(self._records):
            return False
        histories = self._histories()
        for number in segments.decide(self._records, histories, self._finished()):
            trial = self._records[number]["trial"]
            self._records[number] = self._stop(trial, histories[number][-1])
        return True

    def _open_segments(self) -> RoundSegments:
        if self._segments is None:
            scheduler = build_scheduler(self._config, self.study)
            epochs = {}
            if scheduler is not None:
                self._ask_up_to(self._round[-1])
                taking_part = filter(self._takes_part, self._round)
                epochs = {n: self._settings_of(n).training.epochs for n in taking_part}
            self._segments = RoundSegments(scheduler, epochs)
        return self._segments

    def _takes_part(self, number: int) -> bool:
        """Return whether the decisions of the current round concern a trial.

        A trial that equals an earlier one waits for the result of that one. If it must be trained in the
        end, because the machine may have caused that result, it isn't stopped early.
        """
        return not any(
            earlier in self._round or _is_repeatable(self._records[earlier])
            for earlier in self._equal_trials(number)
        )

    def _find_original(self, number: int) -> tuple[Record | None, bool]:
        """Return the record of the first equal trial with a result, and whether to wait for one."""
        for earlier in self._equal_trials(number):
            record = self._records.get(earlier)
            if record is None or record["status"] == "running":
                return None, True
            if _is_repeatable(record):
                return record, False
        return None, False

    def _equal_trials(self, number: int) -> list[int]:
        """Return the numbers of the earlier trials that equal a trial."""
        while number and len(self._keys) <= number:
            earlier = len(self._keys)
            start = self._start_of(earlier)
            key = self._key(self.study, self._settings_of(earlier))
            self._keys.append((key, None if start is None else start["trial"]))
        return [earlier for earlier in range(number) if self._keys[earlier] == self._keys[number]]

    def _histories(self) -> dict[int, list[float]]:
        """Return the search metric after each epoch, of every trial that decisions may see."""
        taking_part = filter(self._takes_part, self._round)
        return {
            number: self._curve_of(number)
            for number in (*range(self._result_count), *taking_part)
            if number in self._records
        }

    def _curve_of(self, number: int) -> list[float]:
        """Return the search metric after each epoch of a trial; kept in memory once it has ended."""
        if number in self._curves:
            return self._curves[number]
        record = self._records[number]
        curve = learning_curve(record, self._config)
        if record["status"] != "running":
            self._curves[number] = curve
        return curve

    def _finished(self) -> list[int]:
        """Return the numbers of the finished trials of earlier rounds."""
        earlier = range(self._result_count)
        return [number for number in earlier if self._records[number]["status"] == "finished"]

    def _start_of(self, number: int) -> dict[str, str] | None:
        """Return the stitch that a trial starts from. If the trial has a record, the record decides."""
        record = self._records.get(number)
        if record is not None:
            start: dict[str, str] | None = record.get("start")
            return start
        if not self._parents or self._shape is None:
            return None
        settings = self._settings_of(number)
        trial = shared_stitch(self.study, settings, self._parents, self._config, self._shape)
        if trial is None:
            return None
        (stitch,) = [r["stitch"] for best in self._parents for r in best if r["trial"] == trial]
        return {"trial": trial, "sha256": stitch["sha256"]}

    def _params_of(self, number: int) -> dict[str, Any]:
        record = self._records.get(number)
        params: dict[str, Any] = record["params"] if record else self._params[number]
        return params

    def _settings_of(self, number: int) -> TrialSettings:
        if number not in self._settings:
            overrides = {**self.study.factors, **self._params_of(number)}
            self._settings[number] = self._config.trial_settings(overrides)
        return self._settings[number]

    def _ask_up_to(self, number: int) -> None:
        """Ask for suggestions in order, also after a resume, because some samplers keep a state."""
        while len(self._params) <= number:
            self._params.append(self._open_search().ask(len(self._params)))

    def _open_search(self) -> StudySearch:
        if self._search is None:
            shared = shared_settings(self._parents, self._config)
            self._search = StudySearch(self.study, self._config, shared)
        return self._search


def _is_repeatable(record: Mapping[str, Any]) -> bool:
    """Return whether an equal trial is certain to end like this one.

    The machine may have caused an exception. A loss that became infinite or NaN is recorded without one.
    A stopped trial is repeated by definition: its equals are stopped where it was.
    """
    return record["status"] != "failed" or "traceback" not in record
