"""The searcher of Ray Tune: hands out the trials of all studies in groups, and retries lost ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stitch_sweep.config.root import Config
from stitch_sweep.core.bounds import BatchSize
from stitch_sweep.core.errors import StoppedError
from stitch_sweep.plan.equal_trials import EffectiveSettings
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.storage.files import explain_stop
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.predictions import decode_predictions
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.groups import LONGEST, MOST_MISFITS, Assignment, Group, choose_size
from stitch_sweep.sweep.openings import StudyOpenings
from stitch_sweep.sweep.ray_setup import tune
from stitch_sweep.sweep.retries import FailureCounter
from stitch_sweep.sweep.rounds import NextTrial, StudyRounds
from stitch_sweep.sweep.segments import paused_epoch
from stitch_sweep.sweep.study_queue import Column, StudyQueue
from stitch_sweep.sweep.trainable import LEFT, MESSAGES, STOPPED

_RESULT_KEYS = ("status", "metric", "metrics", "trajectory", "error", "stopped_at")
"""Keys of a record that hold a trial's result, besides the predictions."""


class SweepSearcher(tune.search.Searcher):
    """Hands groups of trials to Ray Tune, and reads their results from the ledger.

    One trial of Tune is a group: trials that one worker trains side by side. A study's next round of
    suggestions waits for the results of the round before; parallelism comes from running many studies. A
    trial is recorded in the ledger before it is handed out. A trial that the ledger lists as running is
    handed out again under its number, with its parameters.

    If a trial's settings have the same effect as an earlier trial's of its study, it is not handed out:
    its record gets a copy of the earlier result, with `copied_from`. It waits until the earlier trial
    has ended, so that timing doesn't decide which trials are copies.

    Args:
        studies: in the order in which they should run.
        config: the configuration.
        ledger: the sweep's records so far.
        on_event: called with (event, record) for `started`, `ended`, `retried` and `lost` trials, with
            (`message`, {"text": ...}) for a worker's message to the user, and with (`left_out`,
            {"trials": ...}) for a number of trials that `search.stop` leaves out.
        limit: returns the number of groups that may run at the same time; called each time.
        gpu: GPUs of a group, or its share of a GPU. A trial that runs out of memory is tried again with
            twice the share.
        shape: see `EffectiveSettings`.
        width: returns the number of places of a pack, for a receiver, one of its layers and a batch size;
            by default 1.
        layers: returns the number of layers of a network; needed with `search.share: neighbors`.
        clock: returns the time in seconds, for `search.time_budget`.

    Attributes:
        lost: trials whose workers died more than `retries.RETRIES` times without progress.
        stopped: why the sweep must stop, and the remedy; or empty.
        exhausted: whether every trial that could be handed out has ended.
        is_out_of_time: whether `search.time_budget` was over at the end, so that trials may be left.
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
        width: Callable[[str, int, BatchSize], int] = lambda receiver, layer, batch_size: 1,
        layers: Callable[[str], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._config = config
        self._ledger = ledger
        self._on_event = on_event
        self._limit = limit
        self._gpu = gpu
        self._width = width
        self._shape = shape
        self._effective = EffectiveSettings(shape)
        self._needs_larger_share: set[str] = set()
        self._goes_alone: set[str] = set()
        self._running: dict[str, Group] = {}
        self._queue = StudyQueue()
        self._failures = FailureCounter()
        self.lost: list[str] = []
        self.stopped = ""
        self.exhausted = False
        self.is_out_of_time = False
        self._clock = clock
        self._deadline: float | None = None  # known from the first trial on
        self._openings = StudyOpenings(studies, config, ledger, layers, self._open_study)
        for rounds in self._openings.begin():
            self._queue.append(rounds)

    def suggest(self, trial_id: str) -> Any:
        """Return the next group for Tune, None to wait, or FINISHED at the end."""
        slots = 1 if self._limit is None else self._limit()
        if self._limit is not None and len(self._running) >= slots:
            return None
        try:
            group = None if self.stopped or self._is_late() else self._form_group(slots)
        except OSError as error:
            self.stopped, group = explain_stop(str(error)), None
        except StoppedError as error:
            self.stopped, group = str(error), None
        if group is not None:
            self._running[trial_id] = group
            return group.as_config(self._gpu)
        if self._running:
            return None
        self.is_out_of_time = not self.stopped and self._is_late()
        self.exhausted = not (self.stopped or self.is_out_of_time)
        return self.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Forward a worker's messages, and read the records of the trials that ended or wait."""
        self._forward(result)
        group = self._running[trial_id]
        for trial in result.get(LEFT, ()):
            self._read_outcome(group, trial)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Read the records of a group's trials; retry those that neither ended nor wait."""
        group = self._running.pop(trial_id, None)
        if group is None:
            return
        self._forward(result or {})
        for trial in list(group.assignments):
            self._read_outcome(group, trial)
        if result is not None and STOPPED in result:
            self.stopped = explain_stop(result[STOPPED])
            return
        self._retry(list(group.assignments.values()))

    def __getstate__(self) -> dict[str, Any]:
        # The Tuner pickles itself for its own recovery, which is never used.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: Tune's snapshots are off, because the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see `save`."""

    def _open_study(
        self,
        study: Study,
        total: int,
        records: list[dict[str, Any] | None],
        parents: list[list[dict[str, Any]]],
    ) -> StudyRounds:
        key, stop = self._effective.key, self._stop
        return StudyRounds(study, total, self._config, records, key, stop, parents, self._shape)

    def _is_late(self) -> bool:
        """Return whether the time budget is over; it begins with the first call."""
        budget = self._config.search.time_budget
        if budget is None:
            return False
        if self._deadline is None:
            self._deadline = self._clock() + budget
        return self._clock() >= self._deadline

    def _form_group(self, slots: int) -> Group | None:
        """Return the next group, whose trials are recorded as running; None if no trial may start."""
        while (rounds := self._queue.first()) is not None:
            assignment = self._take(rounds)
            if assignment is None:
                continue
            column = rounds.study.receiver, rounds.study.receiver_layer
            batch_size = assignment.spec["settings"]["training"]["batch_size"]
            group = Group(self._width(*column, batch_size))
            self._hand_out(group, assignment)
            if group.width > 1:
                self._fill(group, assignment, column, slots)
            return group
        return None

    def _fill(self, group: Group, first: Assignment, column: Column, slots: int) -> None:
        """Add the next trials of a column to a group that has its first one."""
        if first.goes_alone:
            return
        idle = max(1, slots - len(self._running))
        enough = LONGEST * group.width * idle
        size = choose_size(
            group.width,
            1 + self._queue.count_ready(enough, column),
            1 + self._queue.count_ready(enough),
            idle,
            slots,
        )
        misfits = 0
        for rounds in self._queue.column(column):
            while len(group.assignments) < size and misfits < MOST_MISFITS:
                assignment = self._take(rounds)
                if assignment is None:
                    break
                if not assignment.fits(first):
                    rounds.take_back(assignment.number)
                    misfits += 1
                    break
                self._hand_out(group, assignment)
            else:
                return  # taking a trial opens its study's search, which needs memory

    def _take(self, rounds: StudyRounds) -> Assignment | None:
        """Take a study's next trial. A study without one leaves the queue until a result arrives."""
        while (taken := rounds.next()) is not None:
            spec = _spec(rounds.study, taken)
            trial = spec["trial"]
            if taken.original is None:
                self._check_start(spec)
                return Assignment(
                    rounds,
                    taken.number,
                    spec,
                    taken.until,
                    needs_larger_share=trial in self._needs_larger_share,
                    goes_alone=trial in self._goes_alone,
                )
            copied = self._copy(spec, taken.original)
            self._on_event("ended", copied)
            rounds.add_result(taken.number, copied)
        self._queue.remove(rounds)
        if rounds.is_complete:
            if rounds.left_out:
                self._on_event("left_out", {"trials": rounds.left_out})
            for opened in self._openings.complete(rounds.study):
                self._queue.append(opened)
        return None

    def _check_start(self, spec: Mapping[str, Any]) -> None:
        """Check the stitch that a trial starts from, if it starts from another trial's.

        Raises:
            StoppedError: the stitch is missing, damaged or not the recorded one.
        """
        start = spec.get("start")
        if start is None:
            return
        record = self._ledger.read(start["trial"]) or {}
        if (record.get("stitch") or {}).get("sha256") != start["sha256"]:
            problem = "is not the recorded one"
            path = self._ledger.record_path(spec["trial"])
            remedy = f"remove {path}, and run the same command with --resume"
        elif reason := self._ledger.check_stitch(record):
            problem = f"is {reason}"
            remedy = "run the same command with --resume --retrain-stitches"
        else:
            return
        raise StoppedError(
            f"the sweep stopped: the stitch of {start['trial']}, from which {spec['trial']} starts, "
            f"{problem}; {remedy}"
        )

    def _hand_out(self, group: Group, assignment: Assignment) -> None:
        # A worker presumed dead may have ended the trial; its record is kept.
        self._ledger.hand_out(assignment.trial, assignment.spec)
        group.add(assignment)
        self._on_event("started", assignment.spec)

    def _read_outcome(self, group: Group, trial: str) -> None:
        """Read the record of a group's trial; the trial leaves the group if it has ended or waits."""
        assignment = group.assignments[trial]
        record = self._ledger.read(trial)
        if record is None:
            return
        has_ended = record["status"] != "running"
        if not has_ended and paused_epoch(record) != assignment.until:
            return
        del group.assignments[trial]
        self._goes_alone.discard(trial)
        if has_ended:
            self._on_event("ended", record)
        if assignment.rounds.add_result(assignment.number, record):
            self._queue.put_first(assignment.rounds)

    def _retry(self, assignments: list[Assignment]) -> None:
        """Hand out trials once more after a failure of a machine; Optuna never hears of it."""
        records = [self._ledger.read(assignment.trial) or {} for assignment in assignments]
        has_reason = any("error" in record for record in records)
        # In reverse, because each study is put before the ones that follow.
        for assignment, record in zip(assignments[::-1], records[::-1], strict=True):
            trial = assignment.trial
            if has_reason and "error" not in record:  # its worker hadn't started it yet
                assignment.rounds.take_back(assignment.number)
                self._queue.put_first(assignment.rounds)
                continue
            progress = self._ledger.checkpoint_time(trial)
            is_retried = self._failures.allows_retry(trial, progress)
            can_grow = 0 < self._gpu < 1 and not assignment.needs_larger_share
            if record.get("out_of_memory") and can_grow:
                self._needs_larger_share.add(trial)
                record["error"] += "; it gets twice the share of a GPU"
            elif has_reason or self._failures.count(trial, progress) > 1:
                self._goes_alone.add(trial)
            if is_retried:
                assignment.rounds.take_back(assignment.number)
                self._queue.put_first(assignment.rounds)
            else:
                self.lost.append(trial)
            self._on_event("retried" if is_retried else "lost", {"trial": trial, **record})

    def _copy(self, spec: Mapping[str, Any], original: Mapping[str, Any]) -> dict[str, Any]:
        """Record a trial with the result of an equal trial; return the record."""
        self._ledger.hand_out(spec["trial"], spec)
        result = {key: original[key] for key in _RESULT_KEYS if key in original}
        outcome = {
            **result,
            "copied_from": original["trial"],
            "started": time.time(),
            "seconds": 0.0,
        }
        return self._ledger.finish(spec["trial"], outcome, decode_predictions(original))

    def _stop(self, trial: str, metric: float) -> dict[str, Any]:
        record = self._ledger.stop(trial, metric)
        self._on_event("ended", record)
        return record

    def _forward(self, result: Mapping[str, Any]) -> None:
        for text in result.get(MESSAGES, ()):
            self._on_event("message", {"text": text})


def _spec(study: Study, taken: NextTrial) -> dict[str, Any]:
    """Build the part of a trial's record that is fixed before it runs."""
    start = {} if taken.start is None else {"start": taken.start}
    return {
        **study.key,
        "study": study.id,
        "number": taken.number,
        "params": dict(taken.params),
        "settings": taken.settings.model_dump(mode="json"),
        **start,
        "trial": study.trial(taken.number),
    }
