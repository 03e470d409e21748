"""The estimate of a dry run."""

from __future__ import annotations

import pytest

from stitch_sweep.config.training import TrainingConfig
from stitch_sweep.plan.estimate import _count_validations


@pytest.mark.parametrize(
    ("training", "count"),
    [
        ({"epochs": 3}, 3),
        ({"epochs": 3, "evaluate_every": 0.5}, 6),
        ({"epochs": 3, "evaluate_every": 4}, 9),  # steps 4, 8 and 10 of an epoch of 10 steps
        ({"epochs": 3, "keep": "best"}, 4),
        ({"epochs": 0}, 0),
    ],
)
def test_every_validation_counts(training, count):
    assert _count_validations(TrainingConfig.model_validate(training), 10) == count
