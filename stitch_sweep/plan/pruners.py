"""Optuna's pruners as schedulers: the check of their arguments, and decisions from learning curves.

Step k of Optuna's rules is the end of epoch k, counted from 1.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner, PatientPruner, WilcoxonPruner
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from stitch_sweep.config.search import SchedulerConfig
from stitch_sweep.core.errors import nearest
from stitch_sweep.core.problems import Location, argument_problems, mismatch
from stitch_sweep.plan.halving import StudyPlan

REFUSED_PRUNERS = {
    "NopPruner": "it stops no trial; remove search.scheduler",
    "WilcoxonPruner": "it compares the values at each step as paired measurements of one instance, "
    "and the epochs of a training are no such instances",
}
"""Name -> reason of every pruner class of Optuna that can't judge learning curves."""
PRUNER_CLASSES: dict[str, type[BasePruner]] = {
    name: cls
    for name, cls in vars(optuna.pruners).items()
    if inspect.isclass(cls)
    and issubclass(cls, BasePruner)
    and cls not in (BasePruner, NopPruner, WilcoxonPruner)
}
"""Name -> class of every pruner that `search.scheduler.name` may contain."""

# The decisions of these pruners depend on no earlier decision.
_STATELESS = {"MedianPruner", "PercentilePruner", "ThresholdPruner"}
_WRAPPED = "wrapped_pruner"
_RESOURCES = {"min_resource", "max_resource"}
"""Arguments that are a number of epochs; the default of some is the text `auto`."""


def find_problems(scheduler: SchedulerConfig) -> Iterator[tuple[Location, str]]:
    """Check the arguments of a pruner class.

    Yields:
        Location, below the scheduler's section, and message of each problem.
    """
    options = dict(scheduler.options)
    cls = PRUNER_CLASSES[scheduler.name]
    if cls is PatientPruner and (wrapped := options.pop(_WRAPPED, None)) is not None:
        yield from (((_WRAPPED, *place), reason) for place, reason in _wrapped_problems(wrapped))
    parameters = inspect.signature(cls).parameters
    for name in _RESOURCES & parameters.keys() & options.keys():
        value, allows_auto = options.pop(name), "str" in str(parameters[name].annotation)
        is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if not (is_count or (allows_auto and value == "auto")):
            expected = "a whole number above 0" + (", or 'auto'" if allows_auto else "")
            yield (name,), mismatch(expected, value)
    yield from argument_problems(cls, options)


def _wrapped_problems(section: Any) -> Iterator[tuple[Location, str]]:
    try:
        wrapped = SchedulerConfig.model_validate(section)
    except ValueError:
        yield (), mismatch("a pruner's name, or a section with name and arguments", section)
        return
    if wrapped.name not in PRUNER_CLASSES:
        reason = REFUSED_PRUNERS.get(wrapped.name) or nearest(wrapped.name, PRUNER_CLASSES)
        yield ("name",), f"{wrapped.name!r} is not a pruner that can be wrapped: {reason}"
        return
    yield from find_problems(wrapped)


class PrunerScheduler:
    """Lets a pruner of Optuna judge the trials of a study, in the order of their numbers.

    The pruner sees the trials of earlier rounds as complete or pruned, and the trials of this round as
    running, with their values up to the epoch of the decision. Some pruners note the rungs that a trial
    passed; for them, all earlier decisions are replayed.

    Args:
        plan: the study.
        scheduler: name of the class and its arguments.

    Raises:
        ValueError: Optuna refuses the arguments.
        TypeError: likewise.
    """

    def __init__(self, plan: StudyPlan, scheduler: SchedulerConfig) -> None:
        self._plan = plan
        self._scheduler = scheduler
        self._past = _Past(0, {}, _build(scheduler), {})
        self._decides_at = _decision_epochs(scheduler)
        # Until this number of trials is complete, the pruner stops none.
        self._startup = max(1, scheduler.options.get("n_startup_trials", 5))
        self._needs_complete = scheduler.name in ("MedianPruner", "PercentilePruner")

    def rungs(self, number: int, epochs: int) -> list[int]:
        """See `Scheduler`."""
        if self._needs_complete and self._plan.round_of(number).start < self._startup:
            return []
        return [epoch for epoch in range(1, epochs) if self._decides_at(epoch)]

    def stops(
        self,
        epoch: int,
        arrived: Collection[int],
        histories: Mapping[int, Sequence[float]],
        finished: Collection[int],
    ) -> set[int]:
        """See `Scheduler`."""
        members = self._plan.round_of(min(arrived))
        past = self._replay_until(members.start, histories, finished)
        pruner = copy.deepcopy(past.pruner)
        verdicts, _ = self._run_round(members, epoch, pruner, past.attributes, histories, finished)
        return {number for number in arrived if verdicts[number]}

    def _replay_until(
        self, start: int, histories: Mapping[int, Sequence[float]], finished: Collection[int]
    ) -> _Past:
        """Return the pruner's state when the round began that starts with trial `start`."""
        if self._scheduler.name in _STATELESS:
            return self._past
        known = self._past
        if not known.is_prefix_of(histories, start):
            known = _Past(0, {}, _build(self._scheduler), {})
        pruner, attributes = copy.deepcopy(known.pruner), dict(known.attributes)
        for first in range(known.start, start, self._plan.round_size):
            members = self._plan.round_of(first)
            longest = max((len(histories.get(number, ())) for number in members), default=0)
            _, noted = self._run_round(members, longest, pruner, attributes, histories, finished)
            attributes |= noted
        seen = {number: tuple(histories.get(number, ())) for number in range(start)}
        self._past = _Past(start, seen, pruner, attributes)
        return self._past

    def _run_round(
        self,
        members: range,
        last_epoch: int,
        pruner: BasePruner,
        attributes: Mapping[int, dict[str, Any]],
        histories: Mapping[int, Sequence[float]],
        finished: Collection[int],
    ) -> tuple[dict[int, bool], dict[int, dict[str, Any]]]:
        """Ask a pruner after every epoch of a round.

        Returns:
            Its verdict on every trial that reached the last epoch, and what it noted about the trials.
        """
        storage = InMemoryStorage()
        study = optuna.create_study(
            study_name=self._plan.study_id,
            storage=storage,
            direction="maximize" if self._plan.maximize else "minimize",
        )
        for number in range(members.stop):
            history = histories.get(number, ())
            is_running = number in members
            is_complete = not is_running and number in finished
            values = {} if is_running else dict(enumerate(map(float, history), start=1))
            state = TrialState.COMPLETE if is_complete else TrialState.PRUNED
            study.add_trial(
                create_trial(
                    state=TrialState.RUNNING if is_running else state,
                    value=(float(history[-1]) if len(history) else 0.0) if is_complete else None,
                    intermediate_values=values,
                    system_attrs=dict(attributes.get(number, {})),
                )
            )
        study_id = storage.get_study_id_from_name(study.study_name)
        trials = {
            number: storage.get_trial_id_from_study_id_trial_number(study_id, number)
            for number in members
        }
        verdicts: dict[int, bool] = {}
        for epoch in range(1, last_epoch + 1):
            for number, trial_id in trials.items():
                history = histories.get(number, ())
                if len(history) < epoch:
                    continue
                storage.set_trial_intermediate_value(trial_id, epoch, float(history[epoch - 1]))
                if self._decides_at(epoch):
                    verdict = pruner.prune(study, storage.get_trial(trial_id))
                    if epoch == last_epoch:
                        verdicts[number] = verdict
        noted = {
            number: dict(storage.get_trial(trial_id).system_attrs)
            for number, trial_id in trials.items()
        }
        return verdicts, noted


class _Past:
    """A pruner after the rounds before a trial, with the results from which this follows.

    Args:
        start: number of the first trial of the next round.
        histories: of the trials before it.
        pruner: the pruner, which may have estimated its own arguments from them.
        attributes: the pruner's notes, by trial.
    """

    def __init__(
        self,
        start: int,
        histories: Mapping[int, tuple[float, ...]],
        pruner: BasePruner,
        attributes: dict[int, dict[str, Any]],
    ) -> None:
        self.start = start
        self.pruner = pruner
        self.attributes = attributes
        self._histories = histories

    def is_prefix_of(self, histories: Mapping[int, Sequence[float]], start: int) -> bool:
        """Return whether this state can be continued up to trial `start` of a study."""
        return self.start <= start and all(
            tuple(histories.get(number, ())) == history
            for number, history in self._histories.items()
        )


def _build(scheduler: SchedulerConfig) -> BasePruner:
    options = dict(scheduler.options)
    if options.get(_WRAPPED) is not None:
        options[_WRAPPED] = _build(SchedulerConfig.model_validate(options[_WRAPPED]))
    cls: Any = PRUNER_CLASSES[scheduler.name]
    if cls is PatientPruner:
        options.setdefault(_WRAPPED, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        built: BasePruner = cls(**options)
    return built


def _decision_epochs(scheduler: SchedulerConfig) -> Callable[[int], bool]:
    """Return a function that tells after which epochs a pruner may stop a trial.

    It never stops a trial after another epoch, and waiting there would cost time.
    """
    name = scheduler.name
    arguments = {
        key: parameter.default
        for key, parameter in inspect.signature(PRUNER_CLASSES[name]).parameters.items()
    } | scheduler.options
    if name in _STATELESS:
        warmup, interval = arguments["n_warmup_steps"], arguments["interval_steps"]
        # The first value of a trial is always judged, unless it is part of the warm-up.
        return lambda epoch: epoch >= warmup and (epoch == 1 or (epoch - warmup) % interval == 0)
    if name in ("SuccessiveHalvingPruner", "HyperbandPruner"):
        least, factor = arguments["min_resource"], arguments["reduction_factor"]
        if factor < 2:
            raise ValueError(f"reduction_factor must be at least 2, got {factor!r}")
        largest = arguments.get("max_resource")
        if isinstance(largest, int) and least > largest:
            raise ValueError(f"min_resource = {least} is above max_resource = {largest}")
        if isinstance(least, int):
            first = least * factor ** arguments.get("min_early_stopping_rate", 0)
            return lambda epoch: _is_rung(epoch, first, factor)
    if name == "PatientPruner":
        patience = arguments["patience"]
        return lambda epoch: epoch > patience + 1
    return lambda epoch: True


def _is_rung(epoch: int, first: float, factor: float) -> bool:
    rung = first
    while math.ceil(rung) < epoch:
        rung *= factor
    return math.ceil(rung) == epoch
