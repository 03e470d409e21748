"""Rates of false positives and coverage of intervals on matrices, by long simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stitch_sweep.analysis.matrix.effects import row_and_column_test
from stitch_sweep.analysis.matrix.judging import Correct, judge
from stitch_sweep.analysis.matrix.order_parameters import order_parameters, regions
from stitch_sweep.analysis.matrix.populations import judge_networks
from tests.support.matrices import (
    TRIANGLE,
    bare,
    noise,
    step,
)


def gradient(kind: str, draw: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Row and column effects that grow with the sender's and fall with the receiver's depth."""
    up = np.sort(draw.uniform(0, 1, rows))[:, None]
    down = -np.sort(draw.uniform(0, 1, columns))[None]
    if kind == "binomial":
        return draw.binomial(1808, 0.1 + 0.4 * (up + down + 1)) / 1808
    noise = draw.normal(0, 0.03, (rows, columns))
    if kind == "saturating":
        return (
            np.minimum(0.9, draw.uniform(0.4, 1.1) + draw.uniform(0.4, 1.6) * (up + down)) + noise
        )
    # From the networks' own accuracy downwards, so that the band of many performs.
    if kind == "linear":
        return 0.9 - draw.uniform(0.1, 0.8) * (1 - up - down) / 2 + noise
    return 0.9 - draw.uniform(0.1, 0.8) * (1 - up) + 0 * down + noise


@pytest.mark.long
@pytest.mark.parametrize("kind", ["linear", "rows", "binomial", "saturating"])
def test_false_positives_on_gradients(kind, capsys):
    """What docs/explanation/analysis.md says about noise of one size, binomial noise, and saturation."""
    draw = np.random.default_rng(0)
    n, rejected, triangles = 2000, [], []
    for size in ((5, 5), (5, 7), (9, 9)):
        where = regions(noise(*size, seed=0))
        p, labels = [], []
        for _ in range(n):
            values = pd.DataFrame(gradient(kind, draw, *size))
            p.append(row_and_column_test(values, where))
            labels.append(order_parameters((values - 0.1) / 0.8, where).label())
        rejected.append(float(np.mean(np.array(p) < 0.05)))
        triangles.append(labels.count("triangle") / n)
    with capsys.disabled():
        print(f"\n{kind}: p < 0.05 in {rejected}, labelled triangle {triangles}")
    if kind == "saturating":
        return  # not additive: what was measured is in the docs, and is no error of the test
    # Five standard errors of a share of 0.05 among 2000.
    assert max(rejected) < 0.05 + 5 * math.sqrt(0.05 * 0.95 / n)
    assert max(triangles) < 0.01


@pytest.mark.long
def test_coverage_of_the_image_bootstrap(capsys):
    """Images of known difficulty: how often the interval holds the value of infinitely many images."""
    draw = np.random.default_rng(1)
    target = step(TRIANGLE)
    where = regions(target)
    holds, runs, images = 0, 300, 1000
    # Each image has a threshold that all cells share in part: cells are right on much the same images.
    truth = order_parameters((target - 0.1) / 0.8, where).triangle
    for run in range(runs):
        common, own = draw.normal(size=images), draw.normal(size=(26, images))
        score = stats.norm.cdf((common + own) / math.sqrt(2))
        accuracy = np.append(target.to_numpy().ravel(), 0.9)
        correct = (score < accuracy[:, None]).astype(np.float32)
        values = pd.DataFrame(correct[:-1].mean(axis=1).reshape(5, 5)).astype("float64")
        matrix = bare(values, own=float(correct[-1].mean()))
        found = judge(
            matrix,
            chance=0.1,
            correct=Correct(correct[:-1], correct[-1]),
            resamples=500,
            seed=run,
        ).intervals["triangle"]
        holds += found.low <= truth <= found.high
    with capsys.disabled():
        print(f"\nimage bootstrap: {holds / runs:.3f} of 95% intervals hold the truth")
    assert holds / runs > 0.95 - 5 * math.sqrt(0.95 * 0.05 / runs)


@pytest.mark.long
@pytest.mark.parametrize("networks", [3, 4, 5, 8])
@pytest.mark.parametrize("design", ["pairs", "self-pairs", "two populations"])
def test_coverage_of_the_bootstrap_over_networks(networks, design, capsys):
    """What docs/explanation/analysis.md says: normal effects of networks, pairs, on the upper region."""
    draw = np.random.default_rng(networks)
    runs, holds = 300, 0
    pairs = {
        "pairs": list(itertools.permutations(range(networks), 2)),
        "self-pairs": [(i, i) for i in range(networks)],
        "two populations": list(itertools.product(range(networks), range(networks, 2 * networks))),
    }[design]
    for run in range(runs):
        effects = draw.normal(0, 0.03, 2 * networks)
        group = []
        for i, j in pairs:
            upper = 0.4 + effects[i] + (effects[j] if i != j else 0) + draw.normal(0, 0.02)
            group.append(bare(step(TRIANGLE | {"upper": upper}), f"n{i}", f"n{j}"))
        found = judge_networks(
            group, chance=0.1, sender="R", receiver="R'", resamples=500, seed=run
        ).intervals["triangle"]
        holds += found.low <= 0.5 / 0.8 <= found.high
    with capsys.disabled():
        print(
            f"\n{networks} networks, {design}: {holds / runs:.3f} of 95% intervals hold the truth"
        )
    # Five standard errors below 0.95 for as many runs.
    assert holds / runs > 0.95 - 5 * math.sqrt(0.95 * 0.05 / runs)
