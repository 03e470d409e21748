"""Suggestions are a function of (seed, study, number, earlier results), whatever happens between."""

import importlib.util
import itertools
import json
import math
import random
from pathlib import Path
from typing import ClassVar

import pytest
from ray.tune.search import Searcher

from stitch_sweep.config.models import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.search import (
    RETRIES,
    StudySearch,
    SweepSearcher,
    check_objectives,
    check_sampler,
    combinations,
    outcome_of,
    samples_per_study,
    startup_note,
    trainings_per_study,
)
from stitch_sweep.storage.ledger import Ledger, Study

LR = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
SPACE = {
    # Before its parent on purpose: the order of a file means nothing.
    "training.optimizer.momentum": {
        "type": "categorical",
        "choices": [0.0, 0.9],
        "when": {"training.optimizer.name": "sgd"},
    },
    "training.optimizer.name": {"type": "categorical", "choices": ["sgd", "adam"]},
    "training.optimizer.lr": LR,
    "training.epochs": {"type": "int", "low": 1, "high": 9},
}
FLAT = {
    "training.optimizer.lr": LR,
    "training.schedule.warmup": {"type": "float", "low": 0, "high": 0.5},
}
GRID = {
    "stitch.name": {"type": "categorical", "choices": ["paper", "conv1x1"]},
    "training.schedule.warmup": {
        "type": "categorical",
        "choices": [0.1, 0.2, 0.3],
        "when": {"stitch.name": "paper"},
    },
    "training.epochs": {
        "type": "int",
        "low": 2,
        "high": 3,
        "when": {"training.schedule.warmup": [0.1, 0.2]},
    },
}


def make_config(space: dict | None = None, **search: object) -> Config:
    return Config.model_validate(
        {
            "data": {"name": "digits"},
            "networks": [
                {"name": "a", "family": "resnet1111"},
                {"name": "b", "family": "resnet1111", "seed": 1},
            ],
            "pairs": [{"sender": "a", "receiver": "b"}],
            "search": {"space": space, **search},
        }
    )


STUDIES = [Study("a", i, "b", j) for i, j in itertools.product(range(2), range(2))]


def score(study: str, params: dict) -> float:
    """A made-up metric that depends on cell and parameters."""
    text = json.dumps([study, params], sort_keys=True)
    return random.Random(text).random()


def run(
    config: Config,
    folder: Path,
    *,
    studies: list[Study] = STUDIES,
    slots: int = 1,
    shuffle: int = 0,
    crash_after: float = math.inf,
    fails: int = 0,
) -> dict[str, dict]:
    """What Tune does with the searcher: keep `slots` trials running, finish one at a time.

    Args:
        config: the configuration.
        folder: where the ledger is.
        studies: which studies.
        slots: how many run at once.
        shuffle: seed of the order in which they end.
        crash_after: stop after so many ends, leaving what runs as `running`.
        fails: every so-many-th number fails; 0: none.

    Returns:
        The params of every trial.
    """
    ledger = Ledger(folder)
    searcher = SweepSearcher(studies, config, ledger)
    order, running, ids, ended = random.Random(shuffle), {}, itertools.count(), 0
    while True:
        while len(running) < slots:
            suggestion = searcher.suggest(trial_id := f"t{next(ids)}")
            if suggestion is None or suggestion == Searcher.FINISHED:
                break
            running[trial_id] = json.loads(suggestion["spec"])
        if not running:
            assert suggestion == Searcher.FINISHED
            assert searcher.exhausted
            break
        trial_id = order.choice(sorted(running))
        spec = running.pop(trial_id)
        failed = fails and spec["number"] % fails == 0
        metrics = {
            name: score(spec["study"] + name, spec["params"])
            for name in config.search.goals
            if not failed
        }
        status = "failed" if failed else "finished"
        outcome = {
            "status": status,
            "metrics": metrics,
            "metric": metrics.get(config.search.metric),
            **TRAINED,
        }
        ledger.finish(spec["trial"], outcome, None)
        if ended == crash_after:
            break
        ended += 1
        searcher.on_trial_complete(trial_id, {})
    return {record["trial"]: record["params"] for record in ledger.records()}


def needs(sampler: str) -> object:
    missing = sampler == "CmaEsSampler" and importlib.util.find_spec("cmaes") is None
    return pytest.param(
        sampler, marks=pytest.mark.skipif(missing, reason="CmaEsSampler needs the package cmaes")
    )


SAMPLERS = [
    needs(name)
    for name in ("tpe", "random", "QMCSampler", "NSGAIISampler", "GPSampler", "CmaEsSampler")
]
OPTIONS = {
    "tpe": {"n_startup_trials": 3},
    "GPSampler": {"n_startup_trials": 3},
    "NSGAIISampler": {"population_size": 3},
}


def sampler_config(name: str, space: dict, samples: int, **search: object) -> Config:
    options = {"name": name, **OPTIONS.get(name, {})}
    return make_config(space, sampler=options, samples=samples, **search)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestSamplers:
    @pytest.mark.parametrize("name", SAMPLERS)
    @pytest.mark.parametrize("size", [1, 3])
    def test_after_a_crash_at_every_point_the_same_parameters_follow(self, name, size, tmp_path):
        # A Gaussian process takes a second for a suggestion; two are enough of them.
        samples, crashes = (5, (3, 4)) if name == "GPSampler" else (7, range(7))
        config = sampler_config(name, FLAT, samples, parallel_per_study=size)
        studies = STUDIES[:1]
        wanted = run(config, tmp_path / "whole", studies=studies, slots=size)
        assert len(wanted) == samples
        for k in crashes:
            folder = tmp_path / str(k)
            run(config, folder, studies=studies, slots=size, crash_after=k, shuffle=k)
            assert run(config, folder, studies=studies, slots=size, shuffle=k + 1) == wanted

    @pytest.mark.parametrize("name", ["tpe", "random"])
    def test_conditional_parameters_appear_exactly_when_they_should(self, name, tmp_path):
        config = sampler_config(name, SPACE, 12)
        found = run(config, tmp_path, slots=3)
        assert {params["training.optimizer.name"] for params in found.values()} == {"sgd", "adam"}
        for params in found.values():
            is_sgd = params["training.optimizer.name"] == "sgd"
            assert ("training.optimizer.momentum" in params) == is_sgd
            assert {"training.optimizer.lr", "training.epochs"} <= params.keys()

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_failed_trials_stop_nothing(self, name, tmp_path):
        config = sampler_config(name, FLAT, 5)
        found = run(config, tmp_path, studies=STUDIES[:1], fails=2)
        assert len(found) == len({json.dumps(params) for params in found.values()}) == 5

    @pytest.mark.parametrize(("slots", "shuffle"), [(1, 0), (2, 1), (4, 2), (16, 3)])
    def test_neither_interleaving_nor_the_number_of_workers_changes_anything(
        self, slots, shuffle, tmp_path
    ):
        config = sampler_config("tpe", SPACE, 6, parallel_per_study=3)
        wanted = run(config, tmp_path / "one")
        assert run(config, tmp_path / "other", slots=slots, shuffle=shuffle) == wanted
        backwards = run(config, tmp_path / "back", studies=STUDIES[::-1], slots=slots)
        assert backwards == wanted

    def test_after_a_crash_with_many_studies_at_work_the_same_parameters_follow(self, tmp_path):
        config = sampler_config("tpe", SPACE, 5, parallel_per_study=2)
        wanted = run(config, tmp_path / "whole")
        for k in range(0, len(wanted), 3):
            folder = tmp_path / str(k)
            run(config, folder, slots=5, crash_after=k, shuffle=k)
            assert run(config, folder, slots=3, shuffle=k + 1) == wanted


def by_number(found: dict[str, dict], studies: list[Study], count: int) -> list[list[dict]]:
    return [[found[study.trial(n)] for study in studies] for n in range(count)]


def test_startup_samples_are_equal_across_studies_and_differ_by_number(tmp_path):
    config = sampler_config("tpe", FLAT, 8)
    rows = by_number(run(config, tmp_path), STUDIES, 8)
    for row in rows[:3]:
        assert all(params == row[0] for params in row)
    assert len({json.dumps(row[0]) for row in rows[:3]}) == 3
    assert any(params != row[0] for row in rows[3:] for params in row)


def test_another_seed_gives_other_samples(tmp_path):
    one = sampler_config("random", FLAT, 3)
    other = one.model_copy(update={"seed": 1})
    found = [run(c, tmp_path / str(c.seed), studies=STUDIES[:1]) for c in (one, other)]
    assert not {json.dumps(p) for p in found[0].values()} & {
        json.dumps(p) for p in found[1].values()
    }


@pytest.mark.parametrize("name", ["random", "RandomSampler", "QMCSampler"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_that_looks_at_no_result_gives_all_studies_the_same(name, tmp_path):
    rows = by_number(run(make_config(FLAT, sampler=name, samples=6), tmp_path), STUDIES, 6)
    assert all(params == row[0] for row in rows for params in row)


def test_results_reach_the_sampler(tmp_path):
    space = {"training.schedule.warmup": {"type": "float", "low": 0, "high": 0.9}}
    config = make_config(space, sampler={"name": "tpe", "n_startup_trials": 5})
    search = StudySearch(STUDIES[0], config)
    for number in range(25):
        params = search.ask(number)
        search.tell(number, params, [-abs(params["training.schedule.warmup"] - 0.7)])
    late = [trial.params["training.schedule.warmup"] for trial in search.optuna.trials[15:]]
    # Drawn at random from [0, 0.9], they would lie 0.30 away in the mean.
    assert sum(abs(value - 0.7) for value in late) / len(late) < 0.15


def test_a_running_record_is_handed_out_again_with_its_parameters(tmp_path):
    config = sampler_config("tpe", FLAT, 3)
    (study,) = STUDIES[:1]
    ledger = Ledger(tmp_path)
    stored = {"training.optimizer.lr": 0.01, "training.schedule.warmup": 0.25}
    record = SweepSearcher([study], config, ledger)._content(study, 0, stored)
    ledger.begin(study.trial(0), record)
    spec = json.loads(SweepSearcher([study], config, ledger).suggest("t")["spec"])
    assert spec["number"] == 0
    assert spec["params"] == stored
    assert spec["settings"]["training"]["schedule"]["warmup"] == 0.25


def test_a_round_waits_for_all_of_the_one_before(tmp_path):
    config = sampler_config("random", FLAT, 7, parallel_per_study=3)
    ledger = Ledger(tmp_path)
    searcher = SweepSearcher(STUDIES[:1], config, ledger)

    def suggest(name: str) -> int | None:
        found = searcher.suggest(name)
        return json.loads(found["spec"])["number"] if found else None

    def end(name: str, number: int) -> None:
        ledger.finish(STUDIES[0].trial(number), ENDED, None)
        searcher.on_trial_complete(name, {})

    assert [suggest(name) for name in "abcd"] == [0, 1, 2, None]
    end("c", 2)
    end("a", 0)
    assert suggest("d") is None
    end("b", 1)
    assert [suggest(name) for name in "defg"] == [3, 4, 5, None]


def test_a_trial_whose_worker_died_is_handed_out_again_and_lost_in_the_end(tmp_path):
    events = []
    searcher = SweepSearcher(
        STUDIES[:1],
        sampler_config("tpe", FLAT, 2),
        Ledger(tmp_path),
        lambda event, record: events.append(event),
    )
    first = searcher.suggest("t0")
    for k in range(RETRIES):
        searcher.on_trial_complete(f"t{k}", error=True)
        assert searcher.lost == []
        assert searcher.suggest(f"t{k + 1}") == first, "the same number and parameters"
    searcher.on_trial_complete(f"t{RETRIES}", error=True)
    assert searcher.lost == [STUDIES[0].trial(0)]
    assert events == ["started", *["again", "started"] * RETRIES, "lost"]
    # Number 1 waits for number 0's result, which never came: Optuna heard nothing.
    assert searcher.suggest("u") == Searcher.FINISHED


def test_a_worker_that_was_thought_dead_and_finished_is_not_overwritten(tmp_path):
    ledger, trial = Ledger(tmp_path), STUDIES[0].trial(0)
    searcher = SweepSearcher(STUDIES[:1], sampler_config("random", FLAT, 1), ledger)
    searcher.suggest("t")
    searcher.on_trial_complete("t", error=True)
    ended = ledger.finish(trial, ENDED, None)
    searcher.suggest("u")
    assert ledger.read(trial) == ended


def test_a_trial_tried_again_holds_its_round_up_and_nothing_else(tmp_path):
    ledger = Ledger(tmp_path)
    searcher = SweepSearcher(
        STUDIES[:1], sampler_config("random", FLAT, 4, parallel_per_study=2), ledger
    )

    def suggest(name: str) -> int | None:
        found = searcher.suggest(name)
        return json.loads(found["spec"])["number"] if found else None

    assert [suggest(name) for name in "ab"] == [0, 1]
    searcher.on_trial_complete("a", error=True)
    ledger.finish(STUDIES[0].trial(1), ENDED, None)
    searcher.on_trial_complete("b", {})
    assert [suggest(name) for name in "cd"] == [0, None]
    ledger.finish(STUDIES[0].trial(0), ENDED, None)
    searcher.on_trial_complete("c", {})
    assert [suggest(name) for name in "ef"] == [2, 3]


def test_without_a_space_every_study_has_one_trial(tmp_path):
    found = run(make_config(), tmp_path)
    assert found == {study.trial(0): {} for study in STUDIES}


TRAINED = {"trajectory": [], "seconds": 1.0}
ENDED = {"status": "finished", "metric": 0.5, "metrics": {"val_accuracy": 0.5}, **TRAINED}
GOALS = {"val_accuracy": "max", "val_relative_mse": "min"}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestObjectives:
    @pytest.mark.parametrize("name", ["tpe", "NSGAIISampler"])
    def test_after_a_crash_the_same_parameters_follow(self, name, tmp_path):
        config = sampler_config(name, FLAT, 8, objectives=GOALS)
        wanted = run(config, tmp_path / "whole", studies=STUDIES[:1], fails=3)
        for k in (2, 5):
            folder = tmp_path / str(k)
            run(config, folder, studies=STUDIES[:1], crash_after=k, fails=3)
            assert run(config, folder, studies=STUDIES[:1], fails=3) == wanted

    @pytest.mark.parametrize("which", [0, 1])
    def test_either_objective_moves_later_suggestions(self, which):
        space = {"training.schedule.warmup": {"type": "float", "low": 0, "high": 0.9}}
        options = {"name": "tpe", "n_startup_trials": 5}

        def late(change: float) -> list[float]:
            search = StudySearch(STUDIES[0], make_config(space, sampler=options, objectives=GOALS))
            for number in range(12):
                params = search.ask(number)
                x = params["training.schedule.warmup"]
                values = [-abs(x - 0.2), abs(x - 0.6)]
                values[which] *= change
                search.tell(number, params, values)
            return [t.params["training.schedule.warmup"] for t in search.optuna.trials[5:]]

        assert late(1) == late(1)
        assert late(1) != late(-1)

    def test_a_trial_that_lacks_one_has_failed_for_optuna(self):
        config = make_config(FLAT, objectives=GOALS)
        record = {"status": "finished", "metrics": {"val_accuracy": 0.9, "val_relative_mse": None}}
        assert outcome_of(record, config) is None
        record["metrics"]["val_relative_mse"] = 0.1
        assert outcome_of(record, config) == [0.9, 0.1]
        assert outcome_of({**record, "status": "failed"}, config) is None

    @pytest.mark.parametrize("name", [needs("CmaEsSampler")])
    def test_a_sampler_for_one_objective_is_refused(self, name):
        with pytest.raises(InputError, match=f"{name} can't search 2 objectives at once"):
            check_sampler(make_config(FLAT, sampler=name, objectives=GOALS))

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_every_sampler_that_is_let_through_gets_past_its_start_up(self, name, tmp_path):
        config = sampler_config(name, FLAT, 5, objectives=GOALS)
        try:
            check_sampler(config)
        except InputError:
            return
        assert len(run(config, tmp_path, studies=STUDIES[:1])) == 5

    @pytest.mark.parametrize(
        ("objective", "message"),
        [
            ("test_accuracy", "is computed on test images and can't guide a search"),
            ("val_acuracy", "is no metric: did you mean 'val_accuracy'"),
        ],
    )
    def test_refuses(self, objective, message):
        with pytest.raises(InputError, match=rf"search.objectives.{objective}: {message}"):
            check_objectives(make_config(FLAT, objectives={**GOALS, objective: "max"}))


class TestGrid:
    def test_enumerates_the_conditional_space_without_repetition(self, tmp_path):
        config = make_config(GRID, sampler="grid")
        found = run(config, tmp_path, studies=STUDIES[:1], slots=2)
        points = {tuple(sorted(params.items())) for params in found.values()}
        wanted = {(("stitch.name", "conv1x1"),)}
        for warmup, epochs in itertools.product((0.1, 0.2), (2, 3)):
            wanted.add(
                (
                    ("stitch.name", "paper"),
                    ("training.epochs", epochs),
                    ("training.schedule.warmup", warmup),
                )
            )
        wanted.add((("stitch.name", "paper"), ("training.schedule.warmup", 0.3)))
        assert points == wanted
        assert len(found) == samples_per_study(config, STUDIES[0]) == len(wanted)

    def test_goes_on_after_a_crash(self, tmp_path):
        config = make_config(GRID, sampler="grid")
        wanted = run(config, tmp_path / "whole", studies=STUDIES[:1])
        run(config, tmp_path / "part", studies=STUDIES[:1], crash_after=2)
        assert run(config, tmp_path / "part", studies=STUDIES[:1]) == wanted

    def test_steps_are_decimal(self):
        space = {
            "training.schedule.warmup": {"type": "float", "low": 0.1, "high": 0.7, "step": 0.1}
        }
        config = make_config(space, sampler="grid")
        values = [point["training.schedule.warmup"] for point in combinations(config, STUDIES[0])]
        assert values == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]

    def test_refuses_a_continuous_range(self):
        with pytest.raises(InputError, match=r"search.space.training.optimizer.lr: grid can't"):
            check_sampler(make_config(FLAT | {"training.optimizer.lr": LR}, sampler="grid"))


class TestConditions:
    """A condition holds on what a trial really gets, however that came about."""

    MOMENTUM: ClassVar = {
        "training.optimizer.momentum": {
            "type": "categorical",
            "choices": [0.5, 0.9],
            "when": {"training.optimizer.name": "sgd"},
        }
    }
    OPTIMIZERS: ClassVar = [{"name": "sgd"}, {"name": "adam"}]

    def test_on_a_section_that_is_crossed(self):
        config = make_config(self.MOMENTUM, cross={"training.optimizer": self.OPTIMIZERS})
        counts = [
            len(
                list(combinations(config, Study("a", 0, "b", 0, {"training.optimizer": optimizer})))
            )
            for optimizer in self.OPTIMIZERS
        ]
        assert counts == [2, 1]

    def test_on_a_section_that_is_searched(self):
        section = {"training.optimizer": {"type": "categorical", "choices": self.OPTIMIZERS}}
        config = make_config(self.MOMENTUM | section)
        points = list(combinations(config, STUDIES[0]))
        assert sorted(p["training.optimizer"]["name"] for p in points) == ["adam", "sgd", "sgd"]
        assert all(
            ("training.optimizer.momentum" in p) == (p["training.optimizer"]["name"] == "sgd")
            for p in points
        )

    def test_on_a_setting_that_is_fixed(self):
        config = make_config(self.MOMENTUM)  # the configuration's optimizer is adam
        assert list(combinations(config, STUDIES[0])) == [{}]

    def test_parents_are_followed_when_only_a_part_is_enumerated(self):
        space = {
            "stitch.name": {
                "type": "categorical",
                "choices": ["paper", "conv1x1"],
                "when": {"training.schedule.name": "linear"},
            },
            "training.schedule.name": {"type": "categorical", "choices": ["linear", "constant"]},
        }
        points = list(combinations(make_config(space), STUDIES[0], only="stitch"))
        assert {point.get("stitch.name") for point in points} == {"paper", "conv1x1", None}


class TestSamplerCheck:
    @pytest.mark.parametrize(
        ("sampler", "message"),
        [
            ("tp", r"search.sampler.name: none is named 'tp': did you mean 'tpe'\?"),
            ("GridSampler", r"none is named 'GridSampler'"),
            ({"name": "grid", "seed": 3}, r"grid takes no arguments"),
            (
                {"name": "tpe", "n_startup": 2},
                r"search.sampler.n_startup: .*did you mean 'n_startup_trials'",
            ),
            (
                {"name": "tpe", "n_startup_trials": "2"},
                r"search.sampler.n_startup_trials: wants a finite number, got '2'",
            ),
            ({"name": "tpe", "seed": 2}, r"search.sampler.seed: unknown argument"),
            ({"name": "NSGAIISampler", "population_size": 1}, r"search.sampler: NSGAIISampler"),
        ],
    )
    def test_refuses(self, sampler, message):
        with pytest.raises(InputError, match=message):
            check_sampler(make_config(FLAT, sampler=sampler))

    def test_says_which_package_is_missing(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match="CmaEsSampler needs the package cmaes"):
            check_sampler(make_config(FLAT, sampler="CmaEsSampler"))

    def test_says_when_it_is_random_search_by_another_name(self):
        note = startup_note(make_config(FLAT, samples=5))
        assert note is not None
        assert "don't exceed the 10 random start-up trials" in note
        assert startup_note(make_config(FLAT, samples=11)) is None
        assert startup_note(make_config(FLAT, samples=5, sampler="random")) is None


FINITE = {"training.optimizer.lr": {"type": "categorical", "choices": [0.01, 0.03, 0.1]}}
ONE = {"training.optimizer.lr": {"type": "categorical", "choices": [0.01]}}


def finish(folder: Path, spec: dict, **changes: object) -> None:
    outcome = {**ENDED, "trajectory": [], "seconds": 1.0, "started": 1.0, **changes}
    Ledger(folder).finish(spec["trial"], outcome, None)


def records_of(folder: Path) -> list[dict]:
    """All records, in the order of studies and numbers, without the time of writing."""
    records = sorted(Ledger(folder).records(), key=lambda r: (r["study"], r["number"]))
    return [{k: v for k, v in record.items() if k != "started"} for record in records]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestEqualTrials:
    """A trial that is equal to an earlier one of its study gets that one's result."""

    @pytest.mark.parametrize("name", [p for p in SAMPLERS if p.values != ("GPSampler",)])
    @pytest.mark.parametrize("size", [1, 4])
    def test_twelve_samples_of_three_choices_are_at_most_three_trainings(
        self, name, size, tmp_path
    ):
        config = sampler_config(name, FINITE, 12, parallel_per_study=size)
        events = []
        searcher = SweepSearcher(
            STUDIES[:1], config, Ledger(tmp_path), lambda event, record: events.append(event)
        )
        trained = set()
        while (suggestion := searcher.suggest(str(len(trained)))) != Searcher.FINISHED:
            spec = json.loads(suggestion["spec"])
            finish(tmp_path, spec)
            searcher.on_trial_complete(str(len(trained)), {})
            trained.add(spec["trial"])
        assert searcher.exhausted
        assert 1 <= len(trained) <= 3
        records = records_of(tmp_path)
        assert len(records) == 12
        assert {r["trial"] for r in records if "copied_from" not in r} == trained
        assert events.count("ended") == 12
        assert events.count("started") == len(trained)

    @pytest.mark.parametrize(("slots", "shuffle"), [(1, 0), (2, 1), (4, 2), (16, 3)])
    def test_neither_interleaving_nor_the_number_of_workers_decides_what_is_copied(
        self, slots, shuffle, tmp_path
    ):
        config = sampler_config("tpe", FINITE, 9, parallel_per_study=4)
        run(config, tmp_path / "one")
        run(config, tmp_path / "other", slots=slots, shuffle=shuffle)
        wanted = records_of(tmp_path / "one")
        assert sum("copied_from" in record for record in wanted) >= 4 * 6
        assert records_of(tmp_path / "other") == wanted

    @pytest.mark.parametrize("size", [1, 4])
    def test_after_a_crash_at_every_point_the_same_records_follow(self, size, tmp_path):
        config = sampler_config("tpe", FINITE, 9, parallel_per_study=size)
        studies = STUDIES[:2]
        run(config, tmp_path / "whole", studies=studies, slots=3)
        wanted = records_of(tmp_path / "whole")
        trained = sum("copied_from" not in record for record in wanted)
        assert trained <= 2 * 3
        for k in range(trained):
            folder = tmp_path / str(k)
            run(config, folder, studies=studies, slots=3, crash_after=k, shuffle=k)
            run(config, folder, studies=studies, slots=2, shuffle=k + 1)
            assert records_of(folder) == wanted

    def test_a_copy_that_was_cut_off_is_made_again(self, tmp_path):
        config = sampler_config("random", ONE, 2)
        run(config, tmp_path, studies=STUDIES[:1])
        wanted = records_of(tmp_path)
        ledger, second = Ledger(tmp_path), STUDIES[0].trial(1)
        begun = {k: v for k, v in ledger.read(second).items() if k != "copied_from"}
        ledger.begin(second, begun)  # the process died between the two writes
        run(config, tmp_path, studies=STUDIES[:1])
        assert records_of(tmp_path)[1]["copied_from"] == STUDIES[0].trial(0)
        assert [r["metric"] for r in records_of(tmp_path)] == [r["metric"] for r in wanted]

    def test_an_equal_trial_waits_while_the_first_one_runs(self, tmp_path):
        config = sampler_config("random", ONE, 4, parallel_per_study=3)
        searcher = SweepSearcher(STUDIES[:2], config, Ledger(tmp_path))
        first = json.loads(searcher.suggest("a")["spec"])
        other = json.loads(searcher.suggest("b")["spec"])
        assert (first["number"], other["number"]) == (0, 0)
        assert first["study"] != other["study"], "other studies go on meanwhile"
        assert searcher.suggest("c") is None
        finish(tmp_path, first)
        searcher.on_trial_complete("a", {})
        assert searcher.suggest("c") is None, "the second study still waits"
        assert [r["trial"] for r in records_of(tmp_path) if r["study"] == first["study"]] == [
            STUDIES[0].trial(number) for number in range(4)
        ]
        finish(tmp_path, other)
        searcher.on_trial_complete("b", {})
        assert searcher.suggest("c") == Searcher.FINISHED
        assert len(records_of(tmp_path)) == 8

    def test_what_is_equal_to_a_lost_trial_is_left_to_a_resume(self, tmp_path):
        config = sampler_config("random", ONE, 2, parallel_per_study=2)
        searcher = SweepSearcher(STUDIES[:1], config, Ledger(tmp_path))
        for k in range(RETRIES + 1):
            assert json.loads(searcher.suggest(str(k))["spec"])["number"] == 0
            searcher.on_trial_complete(str(k), error=True)
        assert searcher.lost == [STUDIES[0].trial(0)]
        assert searcher.suggest("x") == Searcher.FINISHED
        assert [r["status"] for r in records_of(tmp_path)] == ["running"]

    def test_a_loss_that_was_not_finite_is_copied_as_a_failure(self, tmp_path):
        config = sampler_config("random", ONE, 3)
        searcher = SweepSearcher(STUDIES[:1], config, Ledger(tmp_path))
        spec = json.loads(searcher.suggest("a")["spec"])
        why = "the loss stopped being finite"
        finish(tmp_path, spec, status="failed", metric=None, metrics={}, error=why)
        searcher.on_trial_complete("a", {})
        assert searcher.suggest("b") == Searcher.FINISHED
        for record in records_of(tmp_path)[1:]:
            assert (record["status"], record["error"]) == ("failed", why)
            assert record["copied_from"] == STUDIES[0].trial(0)

    def test_an_exception_is_not_copied(self, tmp_path):
        """It may come from the machine, such as a lack of memory."""
        config = sampler_config("random", ONE, 3)
        searcher = SweepSearcher(STUDIES[:1], config, Ledger(tmp_path))
        spec = json.loads(searcher.suggest("a")["spec"])
        finish(tmp_path, spec, status="failed", metric=None, metrics={}, traceback="Traceback")
        searcher.on_trial_complete("a", {})
        spec = json.loads(searcher.suggest("b")["spec"])
        assert spec["number"] == 1
        finish(tmp_path, spec)
        searcher.on_trial_complete("b", {})
        assert searcher.suggest("c") == Searcher.FINISHED
        copied = [record.get("copied_from") for record in records_of(tmp_path)]
        assert copied == [None, None, STUDIES[0].trial(1)]

    def test_the_sampler_is_told_the_copied_result(self, tmp_path):
        """Later suggestions are those after a training with the same result."""
        config = sampler_config("tpe", FINITE, 9)
        run(config, tmp_path, studies=STUDIES[:1])
        search = StudySearch(STUDIES[0], config)
        assert sum("copied_from" in record for record in records_of(tmp_path)) >= 6
        for record in records_of(tmp_path):
            assert search.ask(record["number"]) == record["params"]
            search.tell(record["number"], record["params"], outcome_of(record, config))

    def test_equal_trials_of_other_studies_are_trained(self, tmp_path):
        config = sampler_config("random", ONE, 2)
        run(config, tmp_path)
        trained = [r for r in records_of(tmp_path) if "copied_from" not in r]
        assert [r["study"] for r in trained] == sorted(study.id for study in STUDIES)

    def test_a_grid_has_equal_points_where_a_setting_plays_no_part(self, tmp_path):
        space = {
            **FINITE,
            "training.epochs": {"type": "categorical", "choices": [0, 1]},
        }
        run(make_config(space, sampler="grid"), tmp_path, studies=STUDIES[:1])
        epochs = [
            r["settings"]["training"]["epochs"]
            for r in records_of(tmp_path)
            if "copied_from" not in r
        ]
        assert sorted(epochs) == [0, 1, 1, 1]

    def test_a_disk_that_is_full_stops_the_sweep_with_its_reason(self, tmp_path, monkeypatch):
        config = sampler_config("random", ONE, 2)
        searcher = SweepSearcher(STUDIES[:1], config, Ledger(tmp_path))
        spec = json.loads(searcher.suggest("a")["spec"])
        finish(tmp_path, spec)
        searcher.on_trial_complete("a", {})

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Ledger, "begin", full)
        assert searcher.suggest("b") == Searcher.FINISHED
        assert "No space left" in searcher.stopped
        assert not searcher.exhausted


@pytest.mark.parametrize(
    ("space", "samples", "bound"),
    [
        (FINITE, 12, 3),
        (FINITE, 2, 2),
        (FLAT, 12, 12),
        ({"training.epochs": {"type": "int", "low": 1, "high": 10**5}}, 12, 12),
        ({"training.epochs": {"type": "int", "low": 1, "high": 4}}, 12, 4),
        ({**FINITE, "training.epochs": {"type": "int", "low": 1, "high": 2}}, 12, 6),
        (
            {"training.schedule.warmup": {"type": "float", "low": 0, "high": 0.5, "step": 0.25}},
            9,
            3,
        ),
        ({"training.optimizer.lr": {"type": "float", "low": 0.1, "high": 0.1}}, 9, 1),
        (GRID, 12, 6),
        (None, 1, 1),
    ],
)
def test_a_study_trains_no_more_stitches_than_its_space_has_points(space, samples, bound):
    config = make_config(space, samples=samples)
    assert trainings_per_study(config, STUDIES[0]) == bound


def test_a_grid_counts_for_itself():
    config = make_config(GRID, sampler="grid")
    assert trainings_per_study(config, STUDIES[0]) == samples_per_study(config, STUDIES[0]) == 6
