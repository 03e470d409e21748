"""The check of samplers, and suggestions that follow results."""

import importlib.util

import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.samplers import check_sampler, describe_startup
from stitch_sweep.plan.study_search import StudySearch
from tests.support.searches import FLAT, GOALS, LR, STUDIES, make_config, needs


def test_results_reach_the_sampler(tmp_path):
    space = {"training.schedule.warmup": {"type": "float", "low": 0, "high": 0.9}}
    config = make_config(space, sampler={"name": "tpe", "n_startup_trials": 5})
    search = StudySearch(STUDIES[0], config)
    for number in range(25):
        params = search.ask(number)
        search.tell(number, params, [-abs(params["training.schedule.warmup"] - 0.7)])
    late = [trial.params["training.schedule.warmup"] for trial in search.optuna.trials[15:]]
    # Values drawn at random from [0, 0.9] have a mean distance of 0.30.
    assert sum(abs(value - 0.7) for value in late) / len(late) < 0.15


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestObjectives:
    @pytest.mark.parametrize("name", [needs("CmaEsSampler")])
    def test_a_sampler_for_one_objective_is_refused(self, name):
        with pytest.raises(InputError, match=f"{name} can't search 2 objectives at once"):
            check_sampler(make_config(FLAT, sampler=name, objectives=GOALS))


class TestGrid:
    def test_refuses_a_continuous_range(self):
        with pytest.raises(InputError, match=r"search.space.training.optimizer.lr: grid can't"):
            check_sampler(make_config(FLAT | {"training.optimizer.lr": LR}, sampler="grid"))


class TestSamplerCheck:
    @pytest.mark.parametrize(
        ("sampler", "message"),
        [
            ("tp", r"search.sampler.name: no sampler is named 'tp': did you mean 'tpe'\?"),
            ("GridSampler", r"no sampler is named 'GridSampler'"),
            ({"name": "grid", "seed": 3}, r"grid takes no arguments"),
            (
                {"name": "tpe", "n_startup": 2},
                r"search.sampler.n_startup: .*did you mean 'n_startup_trials'",
            ),
            (
                {"name": "tpe", "n_startup_trials": "2"},
                r"search.sampler.n_startup_trials: expected a finite number, got '2'",
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
        note = describe_startup(make_config(FLAT, samples=5))
        assert note is not None
        assert "don't exceed the 10 random start-up trials" in note
        assert describe_startup(make_config(FLAT, samples=11)) is None
        assert describe_startup(make_config(FLAT, samples=5, sampler="random")) is None
