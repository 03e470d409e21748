"""Largest and first differences of tensors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stitch_sweep.checks.differences import first_difference, largest_difference


class TestDifferences:
    @given(arrays("float32", (3, 4), elements=st.floats(width=32)))
    def test_a_tensor_equals_its_copy_and_nothing_else(self, values):
        one = torch.from_numpy(values)
        assert largest_difference(one, one.clone()) == 0
        other = one.clone()
        other.view(torch.int32)[1, 2] ^= 1
        assert largest_difference(one, other) > 0

    def test_it_is_the_largest_gap(self):
        one = torch.tensor([1.0, 2.0, 3.0])
        assert largest_difference(one, torch.tensor([1.5, 2.0, 1.0])) == 2.0

    @pytest.mark.parametrize(
        "other",
        [
            torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
            torch.tensor([[1.0, 2.0, 3.0]]),
            torch.tensor([1.0, math.nan, 3.0]),
            torch.tensor([1.0, math.inf, 3.0]),
        ],
    )
    def test_what_can_not_be_subtracted_is_infinitely_far(self, other):
        assert largest_difference(torch.tensor([1.0, 2.0, 3.0]), other) == math.inf

    def test_signed_zeros_differ(self):
        assert 0 < largest_difference(torch.tensor([0.0]), torch.tensor([-0.0])) < 1e-300

    def test_the_first_name_that_differs(self):
        one = {"x": torch.zeros(2), "y": torch.zeros(2), "z": torch.zeros(1)}
        assert first_difference(one, dict(one)) is None
        assert first_difference(one, {**one, "y": torch.ones(2), "z": torch.ones(1)}) == ("y", 1.0)
        assert first_difference(one, {k: one[k] for k in "xy"}) == ("z", math.inf)
