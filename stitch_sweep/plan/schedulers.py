"""Schedulers, which stop trials early: their interface, the check of `search.scheduler`, construction.

A study runs in rounds of `search.parallel_per_study` trials. All trials of a round that reach an epoch
with a decision wait for each other; then the scheduler decides once. So a decision depends on the results
of the study alone, and never on which trial came first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from stitch_sweep.config.root import Config
from stitch_sweep.config.search import SchedulerConfig
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.problems import argument_problems, dotted, show
from stitch_sweep.plan.halving import Asha, Hyperband, MedianStopping, StudyPlan
from stitch_sweep.plan.pruners import (
    PRUNER_CLASSES,
    REFUSED_PRUNERS,
    PrunerScheduler,
    find_problems,
)
from stitch_sweep.plan.settings import possible_trainings
from stitch_sweep.plan.sizes import count_samples
from stitch_sweep.storage.study import Study

_OWN_CLASSES: dict[str, Any] = {
    "asha": Asha,
    "hyperband": Hyperband,
    "median_stopping": MedianStopping,
}
"""Schedulers with the names, arguments and rules of Ray Tune."""


class Scheduler(Protocol):
    """Decides which trials of a study end early. All decisions are functions of their arguments."""

    def rungs(self, number: int, epochs: int) -> list[int]:
        """Return the epochs e, 1 <= e < epochs, ascending, after which a trial waits for a decision.

        Args:
            number: of the trial in its study.
            epochs: number of epochs that the trial trains if it is not stopped.
        """
        ...

    def stops(
        self,
        epoch: int,
        arrived: Collection[int],
        histories: Mapping[int, Sequence[float]],
        finished: Collection[int],
    ) -> set[int]:
        """Return those of the arrived trials that end here.

        Args:
            epoch: the rung that the trials have reached.
            arrived: numbers of the trials of one round that wait after this epoch.
            histories: the search metric after each epoch, by number: of every trial of earlier rounds
                as far as it ran, and of this round's trials up to `epoch`, which includes trials that
                ended before.
            finished: numbers of the trials of earlier rounds with the status `finished`.
        """
        ...


def build_scheduler(config: Config, study: Study) -> Scheduler | None:
    """Construct the scheduler of a study; None if every trial runs to its end.

    Args:
        config: the configuration, which `check_scheduler` has accepted.
        study: the study.
    """
    scheduler = config.search.scheduler
    if scheduler is None:
        return None
    return _construct(scheduler, _plan_study(config, study))


def check_scheduler(config: Config) -> None:
    """Check that the scheduler exists, takes its arguments, and has something to compare.

    Raises:
        InputError: it doesn't.
    """
    scheduler = config.search.scheduler
    if scheduler is None:
        return
    if problems := list(_problems(scheduler)):
        raise InputError(*problems)
    try:
        _rehearse(scheduler)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"search.scheduler: {scheduler.name}: {error}") from None
    if scheduler.name == "hyperband" and config.search.parallel_per_study == 1:
        raise InputError(
            "search.scheduler: hyperband compares the trials of one round, and parallel_per_study is 1; "
            "set search.parallel_per_study to 2 or more"
        )


def _problems(scheduler: SchedulerConfig) -> Iterator[str]:
    if scheduler.name in REFUSED_PRUNERS:
        reason = REFUSED_PRUNERS[scheduler.name]
        yield f"search.scheduler.name: {scheduler.name} can't be used: {reason}"
    elif scheduler.name in _OWN_CLASSES:
        problems = argument_problems(_OWN_CLASSES[scheduler.name], scheduler.options, {"plan"})
        for place, reason in problems:
            yield f"{dotted(('search', 'scheduler', *place))}: {reason}"
    elif scheduler.name in PRUNER_CLASSES:
        for place, reason in find_problems(scheduler):
            yield f"{dotted(('search', 'scheduler', *place))}: {reason}"
    else:
        names = {*_OWN_CLASSES, *PRUNER_CLASSES}
        yield (
            f"search.scheduler.name: no scheduler is named {show(scheduler.name)}: "
            f"{nearest(scheduler.name, names)}"
        )


def _construct(scheduler: SchedulerConfig, plan: StudyPlan) -> Scheduler:
    if scheduler.name in _OWN_CLASSES:
        built: Scheduler = _OWN_CLASSES[scheduler.name](plan, **scheduler.options)
        return built
    return PrunerScheduler(plan, scheduler)


def _rehearse(scheduler: SchedulerConfig) -> None:
    """Let a scheduler decide once: some pruners of Optuna refuse their arguments only then."""
    epochs = 10
    built = _construct(
        scheduler, StudyPlan("", 0, maximize=True, longest=epochs, round_size=2, total=4)
    )
    for epoch in built.rungs(2, epochs)[:1]:
        histories = {n: [0.5] * (epochs if n < 2 else epoch) for n in range(4)}
        built.stops(epoch, [2, 3], histories, {0, 1})


def _plan_study(config: Config, study: Study) -> StudyPlan:
    search = config.search
    return StudyPlan(
        study_id=study.id,
        seed=config.seed,
        maximize=search.mode == "max",
        longest=_longest_training(config, study),
        round_size=search.parallel_per_study,
        total=count_samples(config, study),
    )


def _longest_training(config: Config, study: Study) -> int:
    """Return the largest number of epochs that a trial of a study may train."""
    trainings = possible_trainings(config, study.factors, "epochs")
    return max(training.epochs for training in trainings)
