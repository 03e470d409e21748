"""Linear probes, against scikit-learn pipelines and data with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from stitch_sweep.measuring.probes import STRENGTHS, Features, pooled, probe
from stitch_sweep.networks.cutting.traced import create_sub_network
from tests.support.measured_sweep import (
    networks,
    normalised,
    table,
)


def test_probes_are_logistic_regressions_on_pooled_representations(measured):
    data, modules, _ = networks(measured.folder.parent)
    result = table(measured, "probes").set_index(["network", "layer"])
    assert sorted(result.index) == [("a", 1), ("a", 3), ("r", 2)]
    row = result.loc[("a", 1)]
    assert row["features"] == 4 * 4 * 4
    x, y = {}, {}
    for split in ("train", "validation", "test"):
        with torch.no_grad():
            maps = create_sub_network(modules["a"], -1, 1)(normalised(data, split))
        x[split] = functional.avg_pool2d(maps, 4).flatten(1).numpy()  # 16 x 16 to 4 x 4
        y[split] = getattr(data, split).labels.numpy()
    scores = {}
    for strength in STRENGTHS:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
        classifier.fit(x["train"], y["train"])
        scores[strength] = [classifier.score(x[split], y[split]) for split in x]
    chosen = max(scores, key=lambda strength: (scores[strength][1], -strength))
    assert row["c"] == chosen
    assert row[["train_accuracy", "val_accuracy", "test_accuracy"]].tolist() == pytest.approx(
        scores[chosen], abs=0.01
    )


@pytest.mark.parametrize(
    ("shape", "features"),
    [
        ((8, 16, 16), 8 * 16),
        ((256, 8, 8), 256 * 4),  # 4 x 4 places would be 4,096
        ((512, 8, 8), 512 * 4),
        ((513, 8, 8), 513),
        ((3, 3, 5), 3 * 4),
        ((3, 1, 1), 3),
        ((17,), 17),
        ((7, 5), 5),
    ],
)
def test_a_probe_sees_at_most_so_many_features(shape, features):
    constant = pooled(torch.full((2, *shape), 3.0))
    assert constant.shape == (2, features)
    assert torch.equal(constant, torch.full((2, features), 3.0))


def test_a_probe_finds_classes_that_a_line_divides_and_no_others():
    numbers = np.random.default_rng(0)

    def split(count: int, related: bool) -> Features:
        labels = np.arange(count) % 2
        values = numbers.normal(size=(count, 5))
        if related:
            values[:, 0] += 20 * labels
        # The standardization must undo scales and offsets, and ignore a constant feature.
        values = np.column_stack([values * [1e-3, 1, 1e3, 1, 1] + 7, np.full(count, 3.0)])
        return Features(values.astype(np.float32), labels)

    result = probe(*(split(n, True) for n in (200, 100, 400)), threads=1)
    assert (result["train_accuracy"], result["test_accuracy"], result["converged"]) == (1, 1, True)
    guess = probe(*(split(n, False) for n in (200, 100, 400)), threads=1)
    assert guess["test_accuracy"] == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 400))


def test_a_probe_of_values_that_are_not_finite_says_nothing():
    bad = Features(np.full((4, 2), np.inf, dtype=np.float32), np.arange(4))
    assert probe(bad, bad, bad, threads=1)["test_accuracy"] is None
