"""Ray Tune's own schedulers as oracles: the same trials of recorded curves end at the same epochs.

Ray decides when a trial reports. Here all trials of a round report first, and the trial in question last.
"""

import copy
import inspect
import random
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar
from unittest import mock

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, HyperBandScheduler, MedianStoppingRule
from ray.tune.schedulers.hyperband import _Bracket
from ray.tune.schedulers.trial_scheduler import TrialScheduler

from stitch_sweep.plan.halving import Asha, Hyperband, MedianStopping, StudyPlan
from tests.support.curves import EPOCHS, make_curves, run_study


@dataclass(frozen=True)
class FakeTrial:
    """A trial as Ray's schedulers know it; equal trials stay equal in copies of a scheduler."""

    trial_id: str
    is_saving: ClassVar[bool] = False


class RayRule:
    """A rule of Ray behind our interface; it keeps what was reported in earlier calls."""

    def __init__(self, scheduler, rungs):
        self._ray = scheduler
        self._reported = set()
        self.rungs = rungs

    def report(self, scheduler, number, epoch, value):
        trial = FakeTrial(str(number))
        result = {"training_iteration": epoch, "metric": value}
        controller = mock.Mock(**{"get_live_trials.return_value": []})
        return scheduler.on_trial_result(controller, trial, result)

    def stops(self, epoch, arrived, histories, finished):
        # What ended trials reported, and what the arrived ones reported before this epoch.
        for number, history in sorted(histories.items()):
            for past, value in enumerate(history, start=1):
                is_new = (number, past) not in self._reported
                if is_new and not (number in arrived and past == epoch):
                    self._reported.add((number, past))
                    self.report(self._ray, number, past, value)
                    # Its verdict on a trial that was not the last to report doesn't count.
                    getattr(self._ray, "_stopped_trials", set()).clear()
        stopped = set()
        for number in arrived:
            trial_last = copy.deepcopy(self._ray)
            others = [other for other in arrived if other != number]
            random.Random(number).shuffle(others)
            for other in [*others, number]:
                action = self.report(trial_last, other, epoch, histories[other][epoch - 1])
            if action == TrialScheduler.STOP:
                stopped.add(number)
        return stopped


def plan(round_size, total, seed=0, maximize=True):
    return StudyPlan("s", seed, maximize, EPOCHS, round_size, total)


def curves_for(mode, count, seed=0):
    curves = make_curves(count, seed=seed)
    return curves if mode == "max" else [[1 - v for v in curve] for curve in curves]


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("round_size", [1, 4, 16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction_factor": 2},
        {"reduction_factor": 1.3},
        {"grace_period": 2, "reduction_factor": 3},
        {"max_t": 4, "reduction_factor": 2},
        {"brackets": 3, "reduction_factor": 2},
    ],
    ids=str,
)
def test_asha(options, round_size, mode):
    curves = curves_for(mode, 32)
    ours = Asha(plan(round_size, 32, maximize=mode == "max"), **options)
    theirs = AsyncHyperBandScheduler(
        metric="metric", mode=mode, stop_last_trials=False, **{"max_t": EPOCHS, **options}
    )
    for number in range(32):
        bracket = theirs._brackets[ours._bracket(number)]
        theirs._trial_info[str(number)] = bracket
    expected = run_study(RayRule(theirs, ours.rungs), curves, round_size)
    assert run_study(ours, curves, round_size) == expected
    assert min(expected) < EPOCHS == max(expected)


def test_brackets_of_asha_are_drawn_with_the_probabilities_of_ray():
    theirs = AsyncHyperBandScheduler(metric="metric", mode="max", max_t=64, brackets=3)
    with mock.patch("numpy.random.choice", return_value=0) as draw:
        theirs.on_trial_add(mock.Mock(), FakeTrial("0"))
    ours = Asha(StudyPlan("s", 0, True, 64, 1, 1), brackets=3)
    assert np.allclose(np.diff(ours._bounds, prepend=0), draw.call_args.kwargs["p"])


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("round_size", [1, 4, 16])
@pytest.mark.parametrize("options", [{}, {"grace_period": 3, "min_samples_required": 5}], ids=str)
def test_median_stopping(options, round_size, mode):
    curves = curves_for(mode, 32)
    ours = MedianStopping(plan(round_size, 32, maximize=mode == "max"), **options)
    theirs = MedianStoppingRule(
        time_attr="training_iteration", metric="metric", mode=mode, **{"grace_period": 1, **options}
    )
    expected = run_study(RayRule(theirs, ours.rungs), curves, round_size)
    assert run_study(ours, curves, round_size) == expected
    assert min(expected) < EPOCHS == max(expected)


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(("max_t", "eta"), [(9, 3), (8, 2), (9, 2.5), (5, 4)])
def test_hyperband(max_t, eta, mode):
    """A whole band in one round: each bracket is a bracket of Ray's."""
    theirs = HyperBandScheduler(
        metric="metric", mode=mode, max_t=max_t, reduction_factor=eta, stop_last_trials=False
    )
    # Ray tells which trials make a band: add them until the second band begins.
    count = 0
    while theirs._state["band_idx"] == 0:
        theirs.on_trial_add(mock.Mock(), FakeTrial(str(count)))
        count += 1
    brackets = theirs._hyperbands[0]
    members = {
        int(trial.trial_id): k for k, b in enumerate(brackets) if b for trial in b.current_trials()
    }
    count = len(members)
    ours = Hyperband(
        plan(count, 2 * count, maximize=mode == "max"), max_t=max_t, reduction_factor=eta
    )
    assert {n: ours._bracket(n) for n in range(count)} == {n: (0, k) for n, k in members.items()}
    curves = curves_for(mode, count)
    expected = dict.fromkeys(range(count), EPOCHS)
    for k, bracket in enumerate(brackets):
        halve(bracket, {n: curves[n] for n in members if members[n] == k}, mode, expected)
    assert dict(enumerate(run_study(ours, curves, count))) == expected


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_a_bracket_that_is_not_full_halves_as_a_bracket_of_its_size(size):
    ours = Hyperband(plan(size, 17), max_t=9)
    curves = make_curves(17)
    expected = dict.fromkeys(range(17), EPOCHS)
    groups = Counter((n // size, ours._bracket(n)[1]) for n in range(17))
    for (batch, s), count in groups.items():
        bracket = _Bracket("training_iteration", count, int(9 * 3.0**-s), 9, 3, s, False)
        numbers = [n for n in range(17) if (n // size, ours._bracket(n)[1]) == (batch, s)]
        for n in numbers:
            bracket.add_trial(FakeTrial(str(n)))
        halve(bracket, {n: curves[n] for n in numbers}, "max", expected)
    assert dict(enumerate(run_study(ours, curves, size))) == expected


def halve(bracket, curves, mode, lengths):
    """Run the trials of one of Ray's brackets to their ends, and write where it stops them."""
    while bracket is not None and bracket._halves:
        epoch = bracket._cumul_r
        for trial in bracket.current_trials():
            value = curves[int(trial.trial_id)][epoch - 1]
            bracket.update_trial_stats(trial, {"training_iteration": epoch, "metric": value})
        _, stopped = bracket.successive_halving("metric", 1 if mode == "max" else -1)
        for trial in stopped:
            lengths[int(trial.trial_id)] = epoch
            bracket.cleanup_trial(trial)


@pytest.mark.parametrize(
    ("ours", "theirs", "changed"),
    [
        (Asha, AsyncHyperBandScheduler, {"max_t"}),
        (Hyperband, HyperBandScheduler, {"max_t"}),
        # Ray counts seconds by default.
        (MedianStopping, MedianStoppingRule, {"grace_period"}),
    ],
)
def test_arguments_have_the_names_and_defaults_of_ray(ours, theirs, changed):
    theirs_by_name = inspect.signature(theirs).parameters
    for name, parameter in inspect.signature(ours).parameters.items():
        if name != "plan":
            assert name in theirs_by_name
            if name not in changed:
                assert parameter.default == theirs_by_name[name].default
