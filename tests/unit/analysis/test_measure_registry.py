"""The registry of measures agrees with the code that computes them."""

from __future__ import annotations

import math

import torch

from stitch_sweep.analysis.comparison import agreement
from stitch_sweep.core.measures import (
    AGREEMENTS,
    COLUMNS,
    DIFFERENCES,
    MEASURES,
    OUTLIER_SCORES,
    REPRESENTATION_QUANTITIES,
    SIMILARITIES,
    short_title,
)
from stitch_sweep.losses.measures import SimilarityMeasures
from stitch_sweep.measuring.squared_differences import SquaredDifferences


def test_every_computed_measure_is_registered_under_its_name_and_within_its_range():
    generator = torch.Generator().manual_seed(0)
    measures = SimilarityMeasures()
    stitched = torch.randn(64, 5, generator=generator)
    measures.add(stitched, stitched + 0.5 * torch.randn(64, 5, generator=generator))
    result = measures.result()
    assert result.keys() == MEASURES.keys()
    outside = {
        name: value
        for name, value in result.items()
        if not MEASURES[name].range[0] <= value <= MEASURES[name].range[1]
    }
    assert not outside


def test_every_direction_is_that_of_a_representation_that_comes_nearer():
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(256, 5, generator=generator)
    noise = torch.randn(256, 5, generator=generator)
    near, far = SimilarityMeasures(), SimilarityMeasures()
    near.add(expected + 0.1 * noise, expected)
    far.add(expected + noise, expected)
    better, worse = near.result(), far.result()
    wrong = {
        name
        for name, measure in MEASURES.items()
        if measure.sign and measure.sign * better[name] <= measure.sign * worse[name]
    }
    assert not wrong


def test_differences_and_agreements_are_registered_under_their_columns():
    representation = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    pairs = dict.fromkeys(("ev", "es", "sv"), ("s", "e"))
    differences = SquaredDifferences(pairs, scale="e")
    differences.add({"s": representation, "e": representation + 1})
    assert set(differences.result()) == {*DIFFERENCES, "variance"}
    assert set(agreement._COLUMNS) == {*AGREEMENTS, "images"}


def test_columns_have_titles_and_similarities_a_direction():
    assert list(SIMILARITIES) == [f"val_{n}" for n, m in MEASURES.items() if m.sign]
    assert set(REPRESENTATION_QUANTITIES) <= {*DIFFERENCES, *OUTLIER_SCORES} <= COLUMNS.keys()
    assert COLUMNS["val_cka"].title == short_title("val_cka") == "CKA"
    assert short_title("val_relative_mse") == "relative MSE"
    assert short_title("stitch_parameters") == "stitch parameters"
    incomplete = [name for name, m in COLUMNS.items() if not (m.title and m.short and m.formula)]
    assert not incomplete
    assert all(
        low < high and not math.isnan(low) for low, high in (m.range for m in COLUMNS.values())
    )
