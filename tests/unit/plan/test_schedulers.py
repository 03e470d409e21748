"""Schedulers: which trials end early, and that nothing but a study's results decides it."""

import itertools
import math
import random

import numpy as np
import optuna
import pytest

from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.halving import Asha, Hyperband, StudyPlan
from stitch_sweep.plan.pruners import PRUNER_CLASSES, REFUSED_PRUNERS
from stitch_sweep.plan.schedulers import build_scheduler, check_scheduler
from tests.support.curves import (
    EPOCHS,
    make_curves,
    run_study,
    scheduled_config,
    scheduler_for,
)
from tests.support.searches import FLAT, GOALS, LR, STUDIES, make_config

PRUNERS = [
    {"name": "SuccessiveHalvingPruner", "min_resource": 1, "reduction_factor": 3},
    {"name": "SuccessiveHalvingPruner"},
    {"name": "SuccessiveHalvingPruner", "min_resource": 2, "bootstrap_count": 2},
    {"name": "HyperbandPruner", "max_resource": EPOCHS},
    {"name": "HyperbandPruner", "reduction_factor": 2},
    {"name": "MedianPruner", "n_startup_trials": 4, "n_warmup_steps": 2},
    {"name": "MedianPruner", "n_startup_trials": 0, "interval_steps": 3},
    {"name": "PercentilePruner", "percentile": 25.0, "n_min_trials": 3},
    {"name": "PatientPruner", "patience": 1},
    {"name": "PatientPruner", "patience": 0, "wrapped_pruner": "SuccessiveHalvingPruner"},
    {"name": "ThresholdPruner", "lower": 0.3, "n_warmup_steps": 3, "interval_steps": 2},
]
ALL = ["asha", {"name": "asha", "brackets": 3}, "hyperband", "median_stopping", *PRUNERS]


class TestCheck:
    @pytest.mark.parametrize("scheduler", ALL, ids=str)
    def test_accepts(self, scheduler):
        check_scheduler(scheduled_config(scheduler, 4, 2))

    @pytest.mark.parametrize(
        ("scheduler", "message"),
        [
            ("ash", r"search.scheduler.name: no scheduler is named 'ash': did you mean 'asha'\?"),
            (
                {"name": "asha", "grace_time": 2},
                r"search.scheduler.grace_time: .*did you mean 'grace_period'",
            ),
            ({"name": "asha", "plan": 2}, r"search.scheduler.plan: unknown argument of Asha"),
            ({"name": "asha", "metric": "x"}, r"search.scheduler.metric: unknown argument"),
            (
                {"name": "asha", "max_t": "9"},
                r"asha: max_t must be a whole number above 0, got '9'",
            ),
            (
                {"name": "asha", "max_t": 2, "grace_period": 3},
                r"grace_period = 3 is above max_t = 2",
            ),
            ({"name": "asha", "reduction_factor": 1}, r"reduction_factor must be above 1"),
            ({"name": "hyperband", "reduction_factor": 1.5}, r"must be at least 2, got 1.5"),
            (
                {"name": "median_stopping", "grace_period": 0},
                r"grace_period must be a whole number",
            ),
            (
                "WilcoxonPruner",
                r"name: WilcoxonPruner can't be used: .*paired .* no such instances",
            ),
            ("NopPruner", r"name: NopPruner can't be used: it stops no trial; remove"),
            ("PercentilePruner", r"search.scheduler: PercentilePruner: .*percentile"),
            ({"name": "PercentilePruner", "percentile": 101}, r"Percentile must be between"),
            (
                {"name": "MedianPruner", "startup": 1},
                r"search.scheduler.startup: unknown argument of MedianPruner",
            ),
            ({"name": "HyperbandPruner", "reduction_factor": 1}, r"must be at least 2, got 1"),
            (
                {"name": "HyperbandPruner", "min_resource": 9, "max_resource": 3},
                r"above max_resource",
            ),
            ({"name": "SuccessiveHalvingPruner", "min_resource": 0}, r"min_resource"),
            (
                {"name": "PatientPruner", "patience": 1, "wrapped_pruner": "WilcoxonPruner"},
                r"search.scheduler.wrapped_pruner.name: 'WilcoxonPruner' is not a pruner that can be",
            ),
            (
                {"name": "PatientPruner", "patience": 1, "wrapped_pruner": {"name": "asha"}},
                r"search.scheduler.wrapped_pruner.name: 'asha' is not a pruner",
            ),
            (
                {
                    "name": "PatientPruner",
                    "patience": 1,
                    "wrapped_pruner": {"name": "MedianPruner", "warmup": 1},
                },
                r"search.scheduler.wrapped_pruner.warmup: unknown argument of MedianPruner",
            ),
        ],
    )
    def test_refuses(self, scheduler, message):
        with pytest.raises(InputError, match=message):
            check_scheduler(scheduled_config(scheduler, 4, 2))

    def test_every_pruner_of_optuna_is_usable_or_refused_with_a_reason(self):
        assert {*PRUNER_CLASSES, *REFUSED_PRUNERS, "BasePruner"} == set(optuna.pruners.__all__)

    def test_hyperband_needs_rounds(self):
        with pytest.raises(InputError, match=r"set search\.parallel_per_study to 2 or more"):
            check_scheduler(scheduled_config("hyperband", 4, 1))

    @pytest.mark.parametrize(
        ("search", "message"),
        [
            ({"space": None}, "without a space a study has only one"),
            ({"objectives": GOALS}, "can't compare trials by several objectives"),
            ({"samples": 5}, r"is 5, which is not a multiple of parallel_per_study = 2"),
        ],
    )
    def test_a_scheduler_needs_trials_that_it_can_compare(self, search, message):
        values = {"space": FLAT, "samples": 4, "parallel_per_study": 2, **search}
        space = values.pop("space")
        samples = values if space else {**values, "samples": 1, "parallel_per_study": 1}
        with pytest.raises(ValueError, match=message):
            make_config(space, scheduler="asha", **samples)


def test_without_a_scheduler_nothing_is_built_and_no_key_is_added():
    config = make_config(FLAT, samples=4)
    assert build_scheduler(config, STUDIES[0]) is None
    assert not {"scheduler", "share", "enqueue"} & config.search.model_dump().keys()
    # A configuration that an earlier version wrote has the same dump.
    assert (
        make_config(FLAT, samples=4, scheduler=None, share="none").model_dump()
        == config.model_dump()
    )


@pytest.mark.parametrize("scheduler", ALL, ids=str)
@pytest.mark.parametrize("round_size", [1, 4, 8])
def test_decisions_depend_on_results_alone(scheduler, round_size):
    """Neither the order of arrival nor later values nor earlier calls to the object change a decision."""
    if scheduler == "hyperband" and round_size == 1:
        pytest.skip("hyperband compares the trials of one round")
    config = scheduled_config(scheduler, 24, round_size)
    curves = make_curves(24)
    fails = {2: 1, 9: 4, 17: 3}
    expected = run_study(scheduler_for(config), curves, round_size, fails=fails)
    used = scheduler_for(config)
    run_study(used, make_curves(24, seed=1), round_size)
    for built in (scheduler_for(config), used):
        for seed in range(2):
            lengths = run_study(
                built,
                curves,
                round_size,
                fails=fails,
                shuffle=random.Random(seed),
                later=random.Random(seed + 9),
            )
            assert lengths == expected


def test_a_scheduler_that_sees_the_future_is_found():
    """The planted fault: a rule that reads the last value it can get instead of the decision's."""

    class Clairvoyant(Asha):
        def stops(self, epoch, arrived, histories, finished):
            futures = {n: [history[-1]] * epoch for n, history in histories.items()}
            return super().stops(epoch, arrived, futures, finished)

    class Latest(Asha):
        def stops(self, epoch, arrived, histories, finished):
            return {list(arrived)[-1]}

    curves = make_curves(16)
    for faulty in (Clairvoyant, Latest):
        built = faulty(StudyPlan("s", 0, True, EPOCHS, 8, 16))
        runs = {
            tuple(
                run_study(
                    built, curves, 8, shuffle=random.Random(seed), later=random.Random(seed + 9)
                )
            )
            for seed in range(3)
        }
        assert len(runs) > 1, faulty.__name__


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("round_size", [4, 8, 16])
@pytest.mark.parametrize(
    "scheduler",
    ["asha", {"name": "asha", "reduction_factor": 2}, {"name": "asha", "brackets": 2}, "hyperband"],
    ids=str,
)
def test_halving_keeps_the_best(scheduler, round_size, mode):
    """The best of all trials at a rung goes on; of one round, those that go on beat those that don't."""
    metric = "val_accuracy" if mode == "max" else "val_loss"
    config = scheduled_config(scheduler, 48, round_size, metric=metric)
    sign = 1 if mode == "max" else -1
    curves = make_curves(48)
    decisions = []

    class Recording:
        def __init__(self, built):
            self.rungs = built.rungs
            self._built = built

        def stops(self, epoch, arrived, histories, finished):
            stopped = self._built.stops(epoch, arrived, histories, finished)
            groups = {}
            for n in arrived:
                groups.setdefault(self._built._bracket(n), []).append(n)
            for bracket, group in groups.items():
                rivals = group if scheduler == "hyperband" else histories
                best = max(
                    (
                        n
                        for n in rivals
                        if len(histories[n]) >= epoch and self._built._bracket(n) == bracket
                    ),
                    key=lambda n: sign * histories[n][epoch - 1],
                )
                decisions.append((epoch, group, stopped & set(group), best, histories))
            return stopped

    run_study(Recording(scheduler_for(config)), curves, round_size)
    assert len(decisions) > 5
    for epoch, group, stopped, best, histories in decisions:
        value = {n: sign * histories[n][epoch - 1] for n in group}
        assert best not in stopped
        kept = set(group) - stopped
        if stopped and kept:
            assert min(value[n] for n in kept) > max(value[n] for n in stopped)
    assert any(stopped for _, _, stopped, _, _ in decisions)


def test_the_number_of_trials_that_go_on_with_asha_is_bounded():
    """Ray's percentile of the others lets at most 1 + ceil((n - 2) / eta) of n different values pass."""
    for count, eta in itertools.product(range(1, 40), (2, 3, 4)):
        order = np.random.default_rng(count).permutation(count)
        values = {n: [value] for n, value in enumerate(order)}
        plan = StudyPlan("s", 0, maximize=True, longest=81, round_size=count, total=count)
        stopped = Asha(plan, reduction_factor=eta).stops(1, values, values, ())
        kept = count - len(stopped)
        most = max(1, 1 + math.ceil((count - 2) / eta))
        assert max(1, count // eta) <= kept <= most, (count, eta, kept)


@pytest.mark.parametrize("round_size", [17, 5, 2])
def test_hyperband_halves_each_bracket_of_a_round(round_size):
    plan = StudyPlan("s", 0, maximize=True, longest=9, round_size=round_size, total=17)
    scheduler = Hyperband(plan)
    # max_t = 9 and eta = 3 make brackets of 3, 5 and 9 trials that begin with 9, 3 and 1 epochs.
    assert [scheduler.rungs(n, 9) for n in (0, 2, 3, 7, 8, 16)] == [
        [],
        [],
        [3],
        [3],
        [1, 3],
        [1, 3],
    ]
    lengths = run_study(scheduler, make_curves(17), round_size)
    for members, rungs in ((range(3, 8), [3]), (range(8, 17), [1, 3])):
        for start in range(0, 17, round_size):
            alive = [n for n in members if start <= n < start + round_size]
            for rung in rungs:
                kept = [n for n in alive if lengths[n] > rung]
                assert len(kept) == math.ceil(len(alive) / 3)
                alive = kept


def test_a_rung_beyond_the_end_of_a_trial_is_none():
    """A searched number of epochs may be small, and the last epoch needs no decision."""
    space = {**FLAT, "training.epochs": {"type": "int", "low": 1, "high": 27}}
    for scheduler in ALL:
        config = make_config(space, scheduler=scheduler, samples=32, parallel_per_study=8)
        built = scheduler_for(config)
        for epochs in (0, 1, 4, 27):
            assert all(1 <= e < epochs for n in range(32) for e in built.rungs(n, epochs))


def test_max_t_follows_the_longest_training():
    space = {"training.epochs": {"type": "int", "low": 1, "high": 27}, "training.optimizer.lr": LR}
    config = make_config(space, scheduler="asha", samples=4, parallel_per_study=4)
    assert scheduler_for(config).rungs(0, 27) == [1, 4, 16]
    config = scheduled_config({"name": "asha", "max_t": 5}, 4, 4, epochs=27)
    assert scheduler_for(config).rungs(0, 27) == [1, 4]


def test_a_searched_recipe_may_have_the_longest_training():
    space = {"training.recipe": {"type": "categorical", "choices": ["fast", "thorough"]}}
    scheduler = {"name": "asha", "reduction_factor": 2}
    tree = make_config(space, scheduler=scheduler, samples=4, parallel_per_study=4).model_dump()
    config = Config.model_validate({**tree, "training": {"recipe": "fast"}})
    epochs = {
        name: config.trial_settings({"training.recipe": name}).training.epochs
        for name in ("fast", "thorough")
    }
    assert epochs == {"fast": 1, "thorough": 4}
    assert scheduler_for(config).rungs(0, 4) == [1, 2]


def test_brackets_of_asha_are_drawn_from_the_seed():
    plan = StudyPlan("s", 0, maximize=True, longest=64, round_size=1, total=400)
    other = StudyPlan("s", 1, maximize=True, longest=64, round_size=1, total=400)

    def first_rungs(plan):
        return [Asha(plan, brackets=3).rungs(n, 64)[0] for n in range(400)]

    drawn = first_rungs(plan)
    assert drawn == first_rungs(plan) != first_rungs(other)
    # Brackets with 4, 3 and 2 rungs have probabilities in proportion to e^4, e^3 and e^2.
    shares = np.exp([4, 3, 2]) / np.exp([4, 3, 2]).sum()
    for rung, share in zip((1, 4, 16), shares, strict=True):
        assert abs(drawn.count(rung) / 400 - share) < 0.08


class TestOptunaAsOracle:
    """Optuna itself, which reports and prunes step by step, decides the same."""

    @pytest.mark.parametrize("mode", ["max", "min"])
    @pytest.mark.parametrize("round_size", [1, 4])
    @pytest.mark.parametrize("scheduler", PRUNERS, ids=str)
    @pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
    def test_same_trials_are_pruned(self, scheduler, round_size, mode):
        curves = make_curves(24)
        if mode == "min":
            curves = [[1 - value for value in curve] for curve in curves]
        metric = "val_accuracy" if mode == "max" else "val_loss"
        config = scheduled_config(scheduler, 24, round_size, metric=metric)
        expected = self.prune(scheduler, curves, round_size, mode)
        assert run_study(scheduler_for(config), curves, round_size) == expected
        assert min(expected) < EPOCHS, "nothing was pruned"
        assert max(expected) == EPOCHS

    def prune(self, scheduler, curves, round_size, mode):
        options = {key: value for key, value in scheduler.items() if key != "name"}
        if scheduler["name"] == "PatientPruner":
            wrapped = options.pop("wrapped_pruner", None)
            options["wrapped_pruner"] = wrapped and getattr(optuna.pruners, wrapped)()
        study = optuna.create_study(
            study_name=STUDIES[0].id,
            direction="maximize" if mode == "max" else "minimize",
            pruner=getattr(optuna.pruners, scheduler["name"])(**options),
        )
        lengths = [EPOCHS] * len(curves)
        for start in range(0, len(curves), round_size):
            trials = {n: study.ask() for n in range(start, start + round_size)}
            for epoch in range(1, EPOCHS + 1):
                for n, trial in trials.items():
                    if lengths[n] < epoch:
                        continue
                    trial.report(curves[n][epoch - 1], epoch)
                    if trial.should_prune() and epoch < EPOCHS:  # the last epoch ends every trial
                        lengths[n] = epoch
            for n, trial in trials.items():
                if lengths[n] < EPOCHS:
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                else:
                    study.tell(trial, curves[n][-1])
        return lengths
