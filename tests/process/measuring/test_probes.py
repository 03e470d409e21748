"""Linear probes of a sweep, against scikit-learn pipelines."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from stitch_sweep.measuring.probes import STRENGTHS
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
