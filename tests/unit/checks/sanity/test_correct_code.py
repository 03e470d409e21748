"""The checks pass on correct code, and warn of images and weights to know about.

tests/process/checks/test_sanity_cells.py runs them on more cells.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from stitch_sweep.checks.sanity.catalog import CHECKS
from stitch_sweep.data.images import Images
from stitch_sweep.plan.cells import Cell
from tests.support.subjects import check_passes, make_subject, run_check


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_right_passes(name, subject):
    check_passes(name, subject)


def test_a_model_whose_conclusion_half_precision_changes_is_warned_of(digits, trained):
    """A common offset of the last layer's weights changes decisions only after rounding."""
    modules = copy.deepcopy(trained)
    with torch.no_grad():
        modules["b"].fc.weight.add_(256.0)
    finding = run_check("precision", make_subject(digits, modules, Cell("b", 4, "b", 4),
                                              stitch={"name": "identity"}))  # fmt: skip
    assert finding.verdict == "warn"
    assert "stored in 16 bits would change a conclusion: bfloat16, stored" in finding.detail


def test_a_network_that_was_stored_in_half_is_warned_of(digits, trained):
    modules = {name: copy.deepcopy(module).half().float() for name, module in trained.items()}
    finding = run_check("precision", make_subject(digits, modules, Cell("a", 1, "b", 2)))
    assert finding.verdict == "warn"
    assert "stored in 16 bits already: a in float16, b in float16" in finding.detail


def test_images_that_occur_twice_are_warned_of(subject):
    data = subject.all_data
    test = data.test.select(torch.tensor([0, 1, 1]))
    train = Images(
        torch.cat([data.train.images, test.images[:1]]), data.train.labels.new_zeros(301)
    )
    finding = run_check(
        "duplicates", replace(subject, all_data=replace(data, train=train, test=test))
    )
    assert (finding.verdict, finding.difference) == ("warn", None)
    assert "test images that are train images too, pixel for pixel: 1" in finding.detail
    assert "test images that repeat an earlier image, pixel for pixel: 1" in finding.detail
    entries = finding.to_dict()["figures"]["duplicates"]
    assert [(entry["split"], entry["origin"]) for entry in entries] == [
        ("test", "train"),
        ("test", "test"),
    ]
