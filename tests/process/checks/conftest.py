"""A subject for sanity checks."""

from __future__ import annotations

import copy

import pytest

from stitch_sweep.checks.sanity.subject import Subject
from stitch_sweep.plan.cells import Cell
from tests.support.subjects import make_subject


@pytest.fixture
def subject(digits, trained) -> Subject:
    return make_subject(digits, copy.deepcopy(trained), Cell("a", 1, "b", 2))
