"""Similarity of two representations."""

from __future__ import annotations

import math

import pytest
import torch

import stitch_sweep as ss
from stitch_sweep.core.measures import MEASURES
from stitch_sweep.losses.measures import MEASURE_INPUTS, SimilarityMeasures


def test_it_is_the_measure_of_trials():
    x, y = torch.randn(40, 5, 3, 3), torch.randn(40, 5, 3, 3)
    measures = SimilarityMeasures()
    measures.add(x, y)
    expected = measures.result()
    # The images are added in another order, so the last bits differ.
    assert ss.similarity(x, y) == pytest.approx({name: expected[name] for name in MEASURE_INPUTS})
    assert ss.similarity(x.numpy(), y.tolist(), "cka") == pytest.approx(expected["cka"])


def test_a_rotation_into_more_channels_changes_no_measure_of_subspaces():
    x = torch.randn(60, 4, 2, 2, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(7, 4, dtype=torch.float64)).Q
    y = torch.einsum("oc,nchw->nohw", rotation, x)
    values = ss.similarity(x, y)
    assert values["cca"] == pytest.approx(1)
    assert values["svcca"] == pytest.approx(1)
    assert values["pwcca"] == pytest.approx(1)
    assert values["cka"] == pytest.approx(1)
    assert values["procrustes"] == pytest.approx(0, abs=1e-9)
    assert all(math.isnan(values[name]) for name in ("mse", "cosine", "correlation"))


def test_measures_of_images_compare_any_shapes():
    x, y = torch.randn(30, 3, 4, 4), torch.randn(30, 6)
    values = ss.similarity(x, y)
    of_images = {name for name, needed in MEASURE_INPUTS.items() if needed == "images"}
    assert {name for name, value in values.items() if not math.isnan(value)} == of_images
    assert {"cka", "jaccard_knn", "second_order_cosine", "knn_agreement"} == of_images
    assert values["cka"] == pytest.approx(ss.similarity(x.flatten(1), y, "cka"))


def test_every_measure_is_in_the_registry():
    assert MEASURE_INPUTS.keys() <= MEASURES.keys()


def test_errors_are_sentences():
    x = torch.randn(20, 4)
    cases = {
        "no measure is named 'ckaa': did you mean 'cka'": lambda: ss.similarity(x, x, "ckaa"),
        "x has 20 images and y has 19": lambda: ss.similarity(x, x[1:]),
        "mse compares values one by one": lambda: ss.similarity(x, x[:, 1:], "mse"),
        "cca compares channels": lambda: ss.similarity(x, torch.randn(20, 4, 2, 2), "cca"),
        "x: has the shape [20]": lambda: ss.similarity(x[:, 0], x),
        "y: is a object": lambda: ss.similarity(x, object()),
    }
    for text, call in cases.items():
        with pytest.raises(ss.InputError) as raised:
            call()
        assert text in str(raised.value)
