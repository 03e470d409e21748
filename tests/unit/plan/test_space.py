"""The search space: grids, conditions, and the number of points."""

from typing import ClassVar

import pytest

from stitch_sweep.plan.sizes import bound_trainings, count_samples
from stitch_sweep.plan.space import combinations
from stitch_sweep.storage.study import Study
from tests.support.searches import FINITE, FLAT, GRID, STUDIES, make_config


class TestGrid:
    def test_steps_are_decimal(self):
        space = {
            "training.schedule.warmup": {"type": "float", "low": 0.1, "high": 0.7, "step": 0.1}
        }
        config = make_config(space, sampler="grid")
        values = [point["training.schedule.warmup"] for point in combinations(config, STUDIES[0])]
        assert values == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


class TestConditions:
    """A condition depends on a trial's settings, whether fixed, crossed or searched."""

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
    assert bound_trainings(config, STUDIES[0]) == bound


def test_a_grid_counts_for_itself():
    config = make_config(GRID, sampler="grid")
    assert bound_trainings(config, STUDIES[0]) == count_samples(config, STUDIES[0]) == 6
