"""Linear probes of data with a known answer.

tests/process/measuring/test_probes.py compares those of a sweep with scikit-learn pipelines.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stitch_sweep.measuring.probes import Features, probe
from stitch_sweep.networks.pooling import pooled


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
