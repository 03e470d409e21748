"""All sanity checks pass on correct code, with other cells, losses, images, stitches and schedules."""

from __future__ import annotations

import copy

import pytest

from stitch_sweep.checks.sanity.batch_sizes import SEVERAL_CHUNKS
from stitch_sweep.checks.sanity.catalog import CHECKS
from stitch_sweep.plan.cells import Cell
from tests.support.subjects import check_passes, make_subject


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize(
    ("cell", "changes"),
    [
        (Cell("b", 3, "b", 0), {"loss": {"mse": 1.0}}),
        (Cell("a", -1, "b", 4), {"data": {"name": "digits", "augment": "crop_flip"}}),
        (
            Cell("a", 2, "b", 2),
            {
                "stitch": {"name": "identity"},
                "training": {
                    "epochs": 1,
                    "batch_size": 1000,
                    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
                    "schedule": {"name": "linear"},
                },
            },
        ),
        (Cell("a", 1, "b", 2), {"training": {"recipe": "fast"}}),
        (Cell("a", 1, "b", 2), {"training": {"recipe": "thorough", "epochs": 2}}),
    ],
    ids=str,
)
def test_what_is_right_passes(name, cell, changes, digits, trained):
    check_passes(name, make_subject(digits, copy.deepcopy(trained), cell, **changes))


def test_figures_of_a_sample_of_the_training_images_pass(digits, trained):
    """Recipes report the figures of as many training images as there are validation images."""
    cell, recipe = Cell("a", 1, "b", 2), {"training": {"recipe": "fast"}}
    subject = make_subject(digits, copy.deepcopy(trained), cell, **recipe)
    count = 2 * SEVERAL_CHUNKS
    data = subject.resize_split(digits, "train", count)
    check_passes(
        "batch size", make_subject(data, copy.deepcopy(trained), cell, images=count, **recipe)
    )
