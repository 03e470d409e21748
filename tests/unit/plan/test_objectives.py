"""The objectives of a search."""

import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.objectives import check_objectives, objective_values
from stitch_sweep.plan.study_search import StudySearch
from tests.support.searches import FLAT, GOALS, STUDIES, make_config


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestObjectives:
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
        assert objective_values(record, config) is None
        record["metrics"]["val_relative_mse"] = 0.1
        assert objective_values(record, config) == [0.9, 0.1]
        assert objective_values({**record, "status": "failed"}, config) is None

    @pytest.mark.parametrize(
        ("objective", "message"),
        [
            ("test_accuracy", "is computed on test images and can't guide a search"),
            ("val_acuracy", "is not a metric: did you mean 'val_accuracy'"),
        ],
    )
    def test_refuses(self, objective, message):
        with pytest.raises(InputError, match=rf"search.objectives.{objective}: {message}"):
            check_objectives(make_config(FLAT, objectives={**GOALS, objective: "max"}))
