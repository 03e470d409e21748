"""The progress of one study: the trials that may start now, and the results that are awaited.

A study's trials run in rounds of `search.parallel_per_study`. The next round's suggestions wait for all
results of the round before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from stitch_sweep.config.root import Config
from stitch_sweep.plan.objectives import objective_values
from stitch_sweep.plan.study_search import StudySearch
from stitch_sweep.storage.study import Study


class NextTrial(NamedTuple):
    """A trial that may start now.

    Attributes:
        number: of the trial.
        params: its searched settings.
        original: the record of an equal trial with a result, to be copied; None to train.
    """

    number: int
    params: dict[str, Any]
    original: dict[str, Any] | None


class StudyRounds:
    """Hands out the trials of a study in rounds.

    Args:
        search: the study, or its search.
        total: number of trials of the study.
        size: number of trials in a round.
        records: of the trials, by number; None where a trial has none.
        key: returns a text that is equal for parameters with equal results; see `EffectiveSettings`.
        config: the configuration, if `search` is a study.
    """

    def __init__(
        self,
        search: StudySearch | Study,
        total: int,
        size: int,
        records: list[dict[str, Any] | None],
        key: Callable[[Study, Mapping[str, Any]], str],
        config: Config | None = None,
    ) -> None:
        # A study's search is built at its first trial: 10,000 of them take memory.
        self._search = search
        self._config = config
        self._key = key
        self._keys: list[str] = []
        self._has_waiting_copy = False
        self._total = total
        self._size = size
        self._records: dict[int, dict[str, Any]] = {n: r for n, r in enumerate(records) if r}
        self._result_count = 0
        self._handed_out: set[int] = set()
        self._params: list[dict[str, Any]] = []  # Optuna's suggestions, in order
        self._tell_whole_rounds()

    @property
    def study(self) -> Study:
        """The study."""
        return self._search if isinstance(self._search, Study) else self._search.study

    def next(self) -> NextTrial | None:
        """Return the next trial that may start now, or None."""
        self._has_waiting_copy = False
        for number in range(self._result_count, min(self._result_count + self._size, self._total)):
            record = self._records.get(number)
            if number in self._handed_out or (record and record["status"] != "running"):
                continue
            self._ask_up_to(number)
            original, must_wait = self._find_original(number)
            if must_wait:
                self._has_waiting_copy = True
                continue
            self._handed_out.add(number)
            return NextTrial(number, self._params_of(number), original)
        return None

    def take_back(self, number: int) -> None:
        """Let `next` hand out a trial once more."""
        self._handed_out.discard(number)

    def add_result(self, number: int, record: dict[str, Any]) -> bool:
        """Add the record of an ended trial; return whether `next` may now return more trials."""
        self._records[number] = record
        return self._tell_whole_rounds() or self._has_waiting_copy

    def _find_original(self, number: int) -> tuple[dict[str, Any] | None, bool]:
        """Return the record of the first equal trial with a result, and whether to wait for one."""
        while number and len(self._keys) <= number:
            self._keys.append(self._key(self.study, self._params_of(len(self._keys))))
        for earlier in range(number):
            if self._keys[earlier] != self._keys[number]:
                continue
            record = self._records.get(earlier)
            if record is None or record["status"] == "running":
                return None, True
            if _is_repeatable(record):
                return record, False
        return None, False

    def _params_of(self, number: int) -> dict[str, Any]:
        record = self._records.get(number)
        params: dict[str, Any] = record["params"] if record else self._params[number]
        return params

    def _tell_whole_rounds(self) -> bool:
        """Tell Optuna the results of complete rounds, in order; return whether a new round is open."""
        has_new_round = False
        while self._result_count < self._total:
            numbers = range(self._result_count, min(self._result_count + self._size, self._total))
            records = [self._records.get(number) for number in numbers]
            if any(record is None or record["status"] == "running" for record in records):
                return has_new_round
            self._ask_up_to(numbers[-1])
            # The recorded parameters count, even if this version of Optuna suggests others.
            for number, record in zip(numbers, records, strict=True):
                assert record is not None
                search = self._open_search()
                search.tell(number, record["params"], objective_values(record, search.config))
            self._result_count = numbers.stop
            has_new_round = self._result_count < self._total
        return has_new_round

    def _ask_up_to(self, number: int) -> None:
        """Ask for suggestions in order, also after a resume, because some samplers keep a state."""
        while len(self._params) <= number:
            self._params.append(self._open_search().ask(len(self._params)))

    def _open_search(self) -> StudySearch:
        if isinstance(self._search, Study):
            assert self._config is not None
            self._search = StudySearch(self._search, self._config)
        return self._search


def _is_repeatable(record: Mapping[str, Any]) -> bool:
    """Return whether an equal trial is certain to end like this one.

    The machine may have caused an exception. A loss that became infinite or NaN is recorded without one.
    """
    return record["status"] == "finished" or "traceback" not in record
