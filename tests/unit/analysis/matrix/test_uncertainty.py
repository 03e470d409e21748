"""Resampling of test images and counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stitch_sweep.analysis.matrix.judging import judge_bare
from stitch_sweep.analysis.matrix.uncertainty import (
    IMAGES,
    Resamples,
    resample_counts,
    resample_images,
)
from tests.support.matrices import (
    TRIANGLE,
    planted,
    step,
)


def test_image_bootstrap_against_drawing_the_images_one_by_one():
    """Row by row and image by image, from the same draws of a second generator."""
    correct, resamples, images = planted(0, 7, 40), 450, 40
    found = resample_images(correct, resamples, seed=3)
    draw = np.random.default_rng(np.random.SeedSequence([3, 1]))
    for start in range(0, resamples, 200):
        rows = min(200, resamples - start)
        for k, drawn in enumerate(draw.integers(images, size=(rows, images))):
            for cell in range(7):
                mean = sum(float(correct[cell, image]) for image in drawn) / images
                assert found[start + k, cell] == pytest.approx(mean, abs=1e-6)


def test_cells_that_have_the_same_images_right_never_differ_in_a_resample():
    correct = planted(1, 2, 100)[[0, 0, 1]]
    found = resample_images(correct, 300, seed=0)
    assert (found[:, 0] == found[:, 1]).all()
    assert (found[:, 0] != found[:, 2]).any()


def test_pairing_shows_in_the_spread_of_a_difference():
    """Cells that share most images: the difference varies as its own images do, and no more."""
    images = 2000
    first = planted(2, 1, images)[0]
    second = first.copy()
    second[:100] = 1 - second[:100]
    found = resample_images(np.stack([first, second]), 4000, seed=1)
    difference = found[:, 0] - found[:, 1]
    exact = np.std(first - second) / math.sqrt(images)
    # The standard deviation of 4000 numbers is known to 1.1%.
    assert np.std(difference) == pytest.approx(exact, rel=0.05)
    assert np.std(found[:, 0]) > 2 * exact


def test_the_images_drawn_do_not_depend_on_how_many_cells_there_are():
    correct = planted(4, 5, 60)
    few, many = (resample_images(correct[:k], 10, seed=5) for k in (2, 5))
    np.testing.assert_allclose(many[:, :2], few, atol=1e-7)


def test_binomial_error_has_the_binomial_mean_and_spread():
    accuracies = np.array([0.1, 0.5, math.nan, 0.93])
    found = resample_counts(accuracies, 400, 20_000, seed=0)
    assert np.isnan(found[:, 2]).all()
    known = [0, 1, 3]
    spread = np.sqrt(accuracies * (1 - accuracies) / 400)[known]
    # Five standard errors of the mean; the spread itself is known to 0.5%.
    assert (abs(found[:, known].mean(axis=0) - accuracies[known]) < 5 * spread / 141).all()
    assert found[:, known].std(axis=0) == pytest.approx(spread, rel=0.03)


@given(st.integers(30, 3000))
@settings(max_examples=20)
def test_measurement_error_shrinks_with_the_root_of_the_images(images):
    narrow, wide = (
        judge_bare(
            step(TRIANGLE), sender_accuracy=0.9, receiver_accuracy=0.9, test_images=count
        ).intervals["triangle"]
        for count in (16 * images, images)
    )
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(4, rel=0.25)


def test_an_order_that_is_often_undefined_has_no_interval():
    upper = np.full(1000, 0.5)
    band = np.where(np.arange(1000) < 60, 0.52, 0.8)
    means = np.stack([band, band, upper])
    assert math.isnan(Resamples(means, IMAGES).intervals()["order"].low)
    means[1, :20] = 0.8
    assert Resamples(means, IMAGES).intervals()["order"].high >= 1
