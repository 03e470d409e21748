"""The searcher of Ray Tune: hands out the trials of all studies, and retries lost ones."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stitch_sweep.config.root import Config
from stitch_sweep.plan.equal_trials import EffectiveSettings
from stitch_sweep.plan.sizes import count_trials
from stitch_sweep.plan.study_search import StudySearch
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.predictions import decode_predictions
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.ray_setup import tune
from stitch_sweep.sweep.retries import FailureCounter
from stitch_sweep.sweep.rounds import StudyRounds
from stitch_sweep.sweep.trainable import MESSAGE, STOPPED

_RESULT_KEYS = ("status", "metric", "metrics", "trajectory", "error")
"""Keys of a record that hold a trial's result, besides the predictions."""


class SweepSearcher(tune.search.Searcher):
    """Hands trials to Ray Tune one after the other, and reads their results from the ledger.

    A study's next round of suggestions waits for the results of the round before; parallelism comes
    from running many studies. A trial is recorded in the ledger before it is handed out. A trial that
    the ledger lists as running is handed out again under its number, with its parameters.

    If a trial's settings have the same effect as an earlier trial's of its study, it is not handed out:
    its record gets a copy of the earlier result, with `copied_from`. It waits until the earlier trial
    has ended, so that timing doesn't decide which trials are copies.

    Args:
        studies: in the order in which they should run.
        config: the configuration.
        ledger: the sweep's records so far.
        on_event: called with (event, record) for `started`, `ended`, `retried` and `lost` trials, and
            with (`message`, {"text": ...}) for a worker's message to the user.
        limit: returns the number of trials that may run at the same time; called again and again.
        gpu: GPUs of a trial, or its share of a GPU. A trial that runs out of memory is tried again with
            twice the share.
        shape: see `EffectiveSettings`.

    Attributes:
        lost: trials whose workers died more than `retries.RETRIES` times without progress.
        stopped: why the ledger can't be written any more, so that the sweep must stop; or empty.
        exhausted: whether every trial that could be handed out has ended.
    """

    def __init__(
        self,
        studies: Iterable[Study],
        config: Config,
        ledger: Ledger,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda event, record: None,
        limit: Callable[[], int] | None = None,
        gpu: float = 0.0,
        shape: Callable[[str, int], Shape] | None = None,
    ) -> None:
        super().__init__()
        self._config = config
        self._ledger = ledger
        self._on_event = on_event
        self._limit = limit
        self._gpu = gpu
        self._effective = EffectiveSettings(shape)
        self._needs_larger_share: set[str] = set()
        self._running: dict[str, tuple[StudyRounds, int]] = {}
        self._queue: deque[StudyRounds] = deque()
        self._failures = FailureCounter()
        self.lost: list[str] = []
        self.stopped = ""
        self.exhausted = False
        self._fill_queue(list(studies))

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial for Tune, None to wait, or FINISHED at the end."""
        if self._limit is not None and len(self._running) >= self._limit():
            return None
        while self._queue and not self.stopped:
            rounds = self._queue[0]
            next_trial = rounds.next()
            if next_trial is None:
                self._queue.popleft()  # returns when its round is over
                continue
            number, params, original = next_trial
            study = rounds.study
            content = self._content(study, number, params)
            trial = study.trial(number)
            try:
                if original is not None:
                    copied = self._copy(trial, content, original)
                else:
                    self._begin(trial, content)
            except OSError as error:
                self.stopped = str(error)
                break
            if original is not None:
                self._on_event("ended", copied)
                rounds.add_result(number, copied)  # the study stays the first of the queue
                continue
            self._running[trial_id] = (rounds, number)
            self._on_event("started", {**content, "trial": trial})
            larger = trial in self._needs_larger_share
            return {
                "spec": json.dumps({**content, "trial": trial}),
                "gpu": min(1.0, 2 * self._gpu) if larger else self._gpu,
                "larger": larger,
            }
        if self._running:
            return None
        self.exhausted = not self.stopped
        return self.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Forward a worker's message; intermediate results change no suggestion."""
        if MESSAGE in result:
            self._on_event("message", {"text": result[MESSAGE]})

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Read the trial's record; retry the trial if the ledger doesn't have it as ended."""
        if trial_id not in self._running:
            return
        rounds, number = self._running.pop(trial_id)
        trial = rounds.study.trial(number)
        record = self._ledger.read(trial)
        if record is None or record["status"] == "running":
            if result is not None and STOPPED in result:
                self.stopped = result[STOPPED]
                return
            self._retry(rounds, number, record)
            return
        self._on_event("ended", record)
        if rounds.add_result(number, record):
            self._queue.appendleft(rounds)

    def __getstate__(self) -> dict[str, Any]:
        # The Tuner pickles itself for its own recovery, which is never used.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: Tune's snapshots are off, because the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see `save`."""

    def _fill_queue(self, studies: list[Study]) -> None:
        """Queue every study with trials that haven't ended."""
        started = self._ledger.trial_ids()
        size = self._config.search.parallel_per_study
        for study, total in zip(studies, count_trials(self._config, studies), strict=True):
            if not any(study.trial(number) in started for number in range(total)):
                rounds = StudyRounds(study, total, size, [], self._key, self._config)
                self._queue.append(rounds)
                continue
            records = [self._ledger.read(study.trial(number)) for number in range(total)]
            if any(record is None or record["status"] == "running" for record in records):
                search = StudySearch(study, self._config)
                self._queue.append(StudyRounds(search, total, size, records, self._key))

    def _begin(self, trial: str, content: Mapping[str, Any]) -> None:
        """Record that a trial runs, unless it has ended: a worker presumed dead may have finished it."""
        before = self._ledger.read(trial)
        if before is None or before["status"] == "running":
            self._ledger.begin(trial, content)

    def _retry(self, rounds: StudyRounds, number: int, record: dict[str, Any] | None) -> None:
        """Hand out a trial once more after a failure of a machine; Optuna never hears of it."""
        trial = rounds.study.trial(number)
        if record is not None and record.get("out_of_memory") and 0 < self._gpu < 1:
            self._needs_larger_share.add(trial)
            record["error"] += "; it gets twice the share of a GPU"
        is_retried = self._failures.allows_retry(trial, self._ledger.checkpoint_time(trial))
        if is_retried:
            rounds.take_back(number)
            self._queue.appendleft(rounds)
        else:
            self.lost.append(trial)
        self._on_event("retried" if is_retried else "lost", record or {"trial": trial})

    def _copy(
        self, trial: str, content: Mapping[str, Any], original: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Record a trial with the result of an equal trial; return the record."""
        self._begin(trial, content)
        result = {key: original[key] for key in _RESULT_KEYS if key in original}
        outcome = {
            **result,
            "copied_from": original["trial"],
            "started": time.time(),
            "seconds": 0.0,
        }
        return self._ledger.finish(trial, outcome, decode_predictions(original))

    def _key(self, study: Study, params: Mapping[str, Any]) -> str:
        settings = self._config.trial_settings({**study.factors, **params})
        return self._effective.key(study, settings)

    def _content(self, study: Study, number: int, params: Mapping[str, Any]) -> dict[str, Any]:
        """Build the part of a trial's record that is fixed before it runs."""
        settings = self._config.trial_settings({**study.factors, **params})
        return {
            **study.key,
            "study": study.id,
            "number": number,
            "params": dict(params),
            "settings": settings.model_dump(mode="json"),
        }
