"""The validation cut and subsets are stratified, seeded and refused where they can't be made."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.splits import (
    allot,
    choose_subset,
    cut_validation,
    stratified_sample,
    validation_size,
)

class_counts = st.lists(st.integers(2, 60), min_size=2, max_size=8)


def labels_of(counts: list[int], seed: int = 0) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


@given(class_counts, st.data())
def test_shares_add_up_and_are_within_one_of_the_exact_proportion(counts, data):
    total = data.draw(st.integers(0, sum(counts)))
    given_out = allot(counts, total)
    assert sum(given_out) == total
    assert all(0 <= given <= count for given, count in zip(given_out, counts, strict=True))
    exact = [count * total / sum(counts) for count in counts]
    if min(exact) >= 1:
        assert all(abs(given - e) < 1 for given, e in zip(given_out, exact, strict=True))


def test_remainders_go_to_the_largest_and_no_class_is_left_out():
    assert allot([60, 30, 11], 10) == [6, 3, 1]
    assert allot([50, 26, 25], 10) == [5, 3, 2]
    assert allot([97, 1, 1, 0], 10) == [8, 1, 1, 0]
    assert sum(allot([97, 1, 1], 2)) == 2


@given(class_counts, st.integers(0, 5), st.data())
def test_a_sample_holds_what_was_allotted_once_each_in_ascending_order(counts, seed, data):
    labels = labels_of(counts)
    total = data.draw(st.integers(1, len(labels)))
    chosen = stratified_sample(labels, total, seed)
    assert chosen.dtype == torch.int64
    assert (chosen.diff() > 0).all()
    assert torch.bincount(labels[chosen], minlength=len(counts)).tolist() == allot(counts, total)
    assert torch.equal(chosen, stratified_sample(labels, total, seed))


def test_seeds_choose_differently_and_smaller_samples_lie_in_larger_ones():
    labels = labels_of([100] * 10)
    small, large = stratified_sample(labels, 100, 7), stratified_sample(labels, 300, 7)
    assert torch.isin(small, large).all()
    assert not torch.equal(large, stratified_sample(labels, 300, 8))


@settings(max_examples=50)
@given(class_counts, st.floats(0.01, 0.99), st.integers(0, 5))
def test_the_validation_cut_is_a_partition_with_every_class_on_both_sides(counts, fraction, seed):
    labels = labels_of(counts)
    names = [str(c) for c in range(len(counts))]
    held_out = round(len(labels) * fraction)
    try:
        train, validation = cut_validation(labels, fraction, seed, names)
    except InputError:
        # By largest remainders, only a small cut can miss a class.
        assert min(held_out, len(labels) - held_out) < len(labels) / min(counts)
        return
    assert len(validation) == held_out
    assert torch.equal(torch.cat([train, validation]).sort().values, torch.arange(len(labels)))
    assert (torch.bincount(labels[train], minlength=len(counts)) > 0).all()
    assert (torch.bincount(labels[validation], minlength=len(counts)) > 0).all()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_0_and_1_is_refused(fraction):
    with pytest.raises(InputError, match=r"val_fraction is .*allowed: above 0 and below 1"):
        cut_validation(labels_of([10, 10]), fraction, 0, ["cat", "dog"])


@pytest.mark.parametrize(("fraction", "part"), [(0.01, "validation"), (0.99, "training")])
def test_a_fraction_that_leaves_a_class_without_images_is_refused(fraction, part):
    with pytest.raises(InputError, match=f"class 'cat', .* 10 .* none in the {part} part"):
        cut_validation(labels_of([10, 10]), fraction, 0, ["cat", "dog"])


def test_a_class_of_one_image_cannot_be_cut():
    with pytest.raises(InputError, match="class 'dog', which has 1 training images"):
        cut_validation(labels_of([50, 1]), 0.1, 0, ["cat", "dog"])


@pytest.mark.parametrize("total", [0, 1, 21])
def test_a_subset_out_of_range_is_refused_with_the_range(total):
    with pytest.raises(InputError, match=rf"train_images is {total}; allowed: 2 .* to 20"):
        choose_subset(labels_of([10, 10]), total, 0, "train", "data.train_images", 2)


def test_validation_shrinks_in_proportion():
    assert validation_size(9000, 0.1, 10, 5000) == 1000
    assert validation_size(20, 0.1, 10, 5000) == 10  # one per class
    assert validation_size(45000, 0.1, 10, 4999) == 4999
