"""Uncertainty, the null hypothesis, and verdicts with their controls."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stitch_sweep.analysis.matrix.controls import controls_of
from stitch_sweep.analysis.matrix.effects import row_and_column_test
from stitch_sweep.analysis.matrix.files import read_matrix
from stitch_sweep.analysis.matrix.judging import Correct, judge, judge_bare
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.network_bootstrap import resample_networks, widening
from stitch_sweep.analysis.matrix.order import LABELS, order_parameters, regions
from stitch_sweep.analysis.matrix.populations import architecture_verdicts, judge_networks
from stitch_sweep.analysis.matrix.sweep_verdicts import verdicts
from stitch_sweep.analysis.matrix.uncertainty import (
    BINOMIAL,
    IMAGES,
    NETWORKS,
    Resamples,
    resample_counts,
    resample_images,
)
from stitch_sweep.analysis.matrix.verdict import CONTROL_TITLES, Verdict
from stitch_sweep.analysis.results import check_results
from stitch_sweep.core.errors import InputError
from tests.support.paths import SHARED

TRIANGLE = {"lower": 0.9, "band": 0.9, "upper": 0.3}
FULL = {"lower": 0.9, "band": 0.9, "upper": 0.9}
NOTHING = {"lower": 0.1, "band": 0.1, "upper": 0.1}
DIAGONAL = {"lower": 0.3, "band": 0.9, "upper": 0.3}


def step(levels: dict[str, float], rows: int = 5, columns: int = 5) -> pd.DataFrame:
    """A matrix with one accuracy per region."""
    where = regions(pd.DataFrame(index=range(rows), columns=range(columns)))
    return where.map(levels.__getitem__).astype("float64")


def bare(values: pd.DataFrame, sender: str = "a", receiver: str = "b", own: float = 0.9) -> Matrix:
    return Matrix.bare(values, sender, receiver, sender_accuracy=own, receiver_accuracy=own)


def noise(rows: int, columns: int, seed: int, size: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(seed).normal(0, size, (rows, columns)))


# Test images


def planted(seed: int, cells: int, images: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (cells, images)).astype(np.float32)


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


def test_judging_by_images_against_a_slow_loop():
    images, rows, columns, chance = 60, 3, 4, 0.1
    correct = planted(6, rows * columns + 1, images)
    correct[-1, :50] = 1
    accuracies = correct.mean(axis=1)
    values = pd.DataFrame(accuracies[:-1].reshape(rows, columns)).astype("float64")
    values.loc[0, 3] = math.nan
    correct[3] = math.nan
    matrix = Matrix.bare(
        values,
        "a",
        "b",
        sender_accuracy=0.2,
        receiver_accuracy=float(accuracies[-1]),
    )
    found = judge(
        matrix, chance=chance, correct=Correct(correct[:-1], correct[-1]), resamples=150, seed=9
    )
    where = regions(values)
    expected = []
    for drawn in np.random.default_rng(np.random.SeedSequence([9, 1])).integers(
        images, size=(150, images)
    ):
        best = np.mean([correct[-1, image] for image in drawn])
        means: dict[str, list[float]] = {"lower": [], "band": [], "upper": []}
        for i, j in itertools.product(range(rows), range(columns)):
            if (i, j) != (0, 3):
                cell = np.mean([correct[i * columns + j, image] for image in drawn])
                means[where.loc[i, j]].append((cell - chance) / (best - chance))
        expected.append(np.mean(means["lower"]) - np.mean(means["upper"]))
    interval = found.intervals["triangle"]
    assert (interval.low, interval.high) == pytest.approx(
        tuple(np.quantile(expected, [0.025, 0.975])), abs=1e-5
    )
    assert interval.method == IMAGES


def test_verdicts_repeat_and_leave_the_global_generator_alone():
    before = np.random.get_state(legacy=True)[1].copy()  # type: ignore[index]
    first, second, other = (
        judge(bare(step(TRIANGLE) - 0.01), chance=0.1, test_images=200, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first.to_dict() == second.to_dict()
    assert first.intervals != other.intervals
    assert (np.random.get_state(legacy=True)[1] == before).all()  # type: ignore[index]


# Counts


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


# Networks


def ordered_pairs(names: str) -> list[tuple[str, str]]:
    return list(itertools.permutations(names, 2))


@given(st.integers(3, 6), st.integers(3, 6), st.integers(0, 2**32))
@settings(max_examples=20)
def test_two_populations_are_drawn_apart(senders, receivers, seed):
    pairs = [(f"s{i}", f"r{j}") for i in range(senders) for j in range(receivers)]
    weights = resample_networks(pairs, 50, seed).reshape(50, senders, receivers)
    assert weights.sum(axis=(1, 2)) == pytest.approx(1)
    # A product of what its sender and its receiver were drawn.
    outer = weights.sum(axis=2)[:, :, None] * weights.sum(axis=1)[:, None, :]
    np.testing.assert_allclose(weights, outer, atol=1e-12)
    drawn = weights.sum(axis=2) * senders
    np.testing.assert_allclose(drawn, drawn.round(), atol=1e-9)


def test_a_network_that_was_not_drawn_takes_all_its_pairs_away_in_both_roles():
    pairs = ordered_pairs("abcd")
    weights = resample_networks(pairs, 400, seed=0)
    assert weights.sum(axis=1) == pytest.approx(1)
    for name in "abcd":
        as_sender = weights[:, [p[0] == name for p in pairs]].sum(axis=1)
        as_receiver = weights[:, [p[1] == name for p in pairs]].sum(axis=1)
        assert (as_sender > 0).tolist() == (as_receiver > 0).tolist()
        assert (as_sender == 0).any()


def test_self_pairs_count_as_often_as_their_network():
    weights = resample_networks([("a", "a"), ("b", "b"), ("c", "c")], 500, seed=1)
    np.testing.assert_allclose(weights * 3, (weights * 3).round(), atol=1e-9)
    assert weights.mean(axis=0) == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        (ordered_pairs("ab"), "at least 3"),
        ([(s, r) for s in "abc" for r in "xy"], "at least 3"),
        ([("a", "a"), *ordered_pairs("abc")], "different experiments"),
        ([("a", "b"), ("a", "b"), ("a", "c")], "twice"),
    ],
)
def test_what_is_no_population_of_networks_is_refused(pairs, reason):
    with pytest.raises(InputError, match=reason):
        resample_networks(pairs, 10, seed=0)


def test_networks_that_are_all_alike_leave_no_uncertainty():
    group = [bare(step(TRIANGLE), s, r) for s, r in ordered_pairs("abc")]
    found = judge_networks(group, chance=0.1, sender="R", receiver="R'")
    interval = found.intervals["triangle"]
    assert found.label == "triangle"
    assert found.label_shares == {"triangle": 1.0}
    assert interval.low == pytest.approx(interval.high)
    assert interval.method == NETWORKS


def test_one_odd_network_of_three_is_seen_in_the_interval():
    group = [
        bare(step(DIAGONAL if "c" in (s, r) else TRIANGLE), s, r) for s, r in ordered_pairs("abc")
    ]
    found = judge_networks(group, chance=0.1, sender="R", receiver="R'")
    assert found.intervals["order"].low < 0.1
    assert found.intervals["order"].high > 0.9
    assert set(found.label_shares) >= {"triangle", "diagonal"}


def test_each_pair_is_rescaled_by_its_own_networks():
    group = [
        bare(0.1 + (step(TRIANGLE) - 0.1) * share, s, r, own=0.1 + 0.8 * share)
        for (s, r), share in zip(ordered_pairs("abc"), [1.0, 0.5, 0.7, 0.9, 0.4, 0.8], strict=True)
    ]
    found = judge_networks(group, chance=0.1, sender="R", receiver="R'")
    interval = found.intervals["triangle"]
    assert (interval.low, interval.high) == pytest.approx((0.75, 0.75))
    assert found.parameters.lower == pytest.approx(1)


def test_a_cell_that_one_pair_lacks_is_the_mean_of_the_others():
    group = [bare(step(TRIANGLE), s, r) for s, r in ordered_pairs("abc")]
    group[0].values.loc[1, 1] = math.nan
    found = judge_networks(group, chance=0.1, sender="R", receiver="R'")
    pd.testing.assert_frame_equal(found.matrix.values, step(TRIANGLE))
    assert found.label == "triangle"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (bare(step(TRIANGLE, 4, 5), "c", "a"), "layers differ"),
        (Matrix.bare(step(TRIANGLE), "c", "a", factors={"loss": "mse"}), "factors differ"),
    ],
)
def test_matrices_of_different_experiments_are_not_averaged(other, reason):
    group = [bare(step(TRIANGLE), s, r) for s, r in ordered_pairs("abc") if (s, r) != ("c", "a")]
    with pytest.raises(InputError, match=reason):
        judge_networks([*group, other], chance=0.1, sender="R", receiver="R'")


@pytest.mark.parametrize("count", [3, 5])
def test_widening_makes_the_spread_of_draws_that_of_the_networks(count):
    """For effects that add up the standard error of the mean is known: it is found on average."""
    names = [f"n{k}" for k in range(count)]
    pairs = list(itertools.permutations(names, 2))
    weights = resample_networks(pairs, 4000, seed=0)
    draw = np.random.default_rng(1)
    spreads = []
    for _ in range(3000):
        effects = dict(zip(names, draw.normal(size=count), strict=True))
        spreads.append(np.var(weights @ [effects[s] + effects[r] for s, r in pairs]))
    quantiles = stats.t.ppf(0.975, count - 1) / stats.norm.ppf(0.975)
    found = np.mean(spreads) * (widening(pairs, weights, 0.95) / quantiles) ** 2
    # The mean over all pairs is twice the mean effect.
    assert found == pytest.approx(4 / count, rel=0.06)


# The null hypothesis of row and column effects


def nested_models(values: pd.DataFrame, where: pd.DataFrame) -> float:
    """The same test written out as two least-squares fits, one within the other."""
    rows, columns = values.shape
    y = values.to_numpy().ravel()
    small = np.zeros((y.size, rows + columns))
    for n, (i, j) in enumerate(itertools.product(range(rows), range(columns))):
        small[n, i] = small[n, rows + j] = 1
    names = where.to_numpy().ravel()
    large = np.column_stack([small, names == "lower", names == "upper"]).astype(float)
    known = ~np.isnan(y)
    fits = []
    for design in (small[known], large[known]):
        solution, _, rank, _ = np.linalg.lstsq(design, y[known], rcond=None)
        fits.append((float(np.sum((y[known] - design @ solution) ** 2)), int(rank)))
    (rest, few), (less, many) = fits
    freedom = int(known.sum()) - many
    f = ((rest - less) / (many - few)) / (less / freedom)
    return float(stats.f.sf(f, many - few, freedom))


@given(st.integers(4, 9), st.integers(4, 9), st.integers(0, 2**32), st.integers(0, 3))
@settings(max_examples=40)
def test_null_against_two_nested_least_squares_fits(rows, columns, seed, missing):
    values = noise(rows, columns, seed)
    for cell in np.random.default_rng(seed).choice(values.size, missing, replace=False):
        values.iloc[divmod(int(cell), columns)] = math.nan
    where = regions(values)
    assert row_and_column_test(values, where) == pytest.approx(nested_models(values, where))


@given(st.integers(0, 2**32), st.floats(0.01, 100), st.floats(-10, 10))
@settings(max_examples=40)
def test_null_is_blind_to_row_and_column_effects_and_to_units(seed, scale, shift):
    values = noise(5, 7, seed)
    draw = np.random.default_rng(seed + 1)
    moved = scale * (values + draw.normal(size=(5, 1)) + draw.normal(size=(1, 7))) + shift
    where = regions(values)
    assert row_and_column_test(moved, where) == pytest.approx(
        row_and_column_test(values, where), rel=1e-6, abs=1e-9
    )


def test_null_is_the_limit_of_rotating_residuals():
    values = noise(5, 6, 8) + step(TRIANGLE, 5, 6)
    where = regions(values)
    rows, columns = values.shape
    centre = np.kron(
        np.eye(rows) - 1 / rows, np.eye(columns) - 1 / columns
    )  # takes row and column means away
    basis = np.linalg.svd(centre)[0][:, : (rows - 1) * (columns - 1)]
    names = where.to_numpy().ravel()
    inside = basis.T @ np.stack([names == "lower", names == "upper"], axis=1).astype(float)
    tested = np.linalg.qr(inside)[0]
    z = basis.T @ values.to_numpy().ravel()

    def share(vectors: np.ndarray) -> np.ndarray:
        return np.sum((vectors @ tested) ** 2, axis=-1) / np.sum(vectors**2, axis=-1)

    # A randomly rotated vector points in a direction like that of independent normal numbers.
    rotated = np.random.default_rng(0).normal(size=(40_000, len(z)))
    p = float(np.mean(share(rotated) >= share(z)))
    exact = row_and_column_test(values, where)
    assert exact is not None
    assert p == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 40_000))


def test_under_the_null_p_values_are_uniform():
    """Row and column effects and normal noise: exactly as many small p-values as there should be."""
    draw = np.random.default_rng(0)
    found = []
    for rows, columns in ((4, 4), (5, 5), (5, 7)):
        where = regions(noise(rows, columns, 0))
        for _ in range(400):
            effects = draw.uniform(0, 1, (rows, 1)) + draw.uniform(0, 1, (1, columns))
            values = pd.DataFrame(effects + draw.normal(0, 0.05, (rows, columns)))
            found.append(row_and_column_test(values, where))
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_a_clear_step_is_found():
    for levels in (TRIANGLE, DIAGONAL, {"lower": 0.3, "band": 0.9, "upper": 0.9}):
        values = step(levels) + noise(5, 5, 1, 0.03)
        assert row_and_column_test(values, regions(values)) < 0.05


def test_perfect_row_and_column_effects_leave_nothing_to_explain():
    values = pd.DataFrame(np.add.outer(np.linspace(0, 0.4, 5), np.linspace(0.3, 0, 5)))
    assert row_and_column_test(values, regions(values)) == 1
    assert row_and_column_test(values * 0 + 0.3, regions(values)) == 1


@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (1, 5)])
def test_too_few_cells_have_no_p_value(shape):
    values = noise(*shape, seed=0)
    assert row_and_column_test(values, regions(values)) is None


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
    """What docs/analysis.md says about noise of one size, binomial noise, and saturation."""
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
    """What docs/analysis.md says: effects of networks and of pairs, normal, on the upper region."""
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


# Verdicts on one matrix


def test_a_triangle_is_judged_in_all_its_parts():
    found = judge(bare(step(TRIANGLE)), chance=0.1, test_images=2000)
    assert (found.label, found.headline) == ("triangle", "triangle")
    assert found.best_accuracy == 0.9
    assert found.parameters.triangle == pytest.approx(0.75)
    assert found.parameters.order == pytest.approx(1)
    for name in ("triangle", "diagonal", "order"):
        interval = found.intervals[name]
        assert interval.low <= getattr(found.parameters, name) <= interval.high
        assert (interval.level, interval.method) == (0.95, BINOMIAL)
    assert found.label_shares == {"triangle": 1.0}
    assert found.reach.tolist() == [0, 1, 2, 3, 4]
    assert any("measurement error" in note and "2000" in note for note in found.notes)


def test_without_images_or_predictions_there_are_no_intervals():
    found = judge(bare(step(TRIANGLE)), chance=0.1)
    assert (found.intervals, found.label_shares) == ({}, {})


@pytest.mark.parametrize("own", [0.12, math.nan])
def test_networks_near_chance_or_unknown_are_not_judged(own):
    found = judge(bare(step(TRIANGLE), own=own), chance=0.1, test_images=500)
    assert found.label == "unclear"
    assert any("no scale to judge by" in note for note in found.notes)
    json.dumps(found.to_dict(), allow_nan=False)


def gone(values: pd.DataFrame, cells: list[tuple[int, int]], failed: bool) -> Matrix:
    values = values.copy()
    marks = pd.DataFrame(False, index=values.index, columns=values.columns)
    for i, j in cells:
        values.loc[i, j] = math.nan
        marks.loc[i, j] = failed
    matrix = bare(values)
    return Matrix(**{**vars(matrix), "failed": marks})


@pytest.mark.parametrize(("failed", "word"), [(True, "failed"), (False, "have not been run")])
def test_a_few_cells_without_a_value_are_noted_and_many_take_the_label(failed, word):
    few = judge(gone(step(TRIANGLE), [(0, 4), (3, 1)], failed), chance=0.1)
    assert few.label == "triangle"
    assert any(f"2 of 25 cells {word}" in note for note in few.notes)
    many = judge(
        gone(step(TRIANGLE), [(i, 2) for i in range(5)] + [(0, 3), (4, 0)], failed), chance=0.1
    )
    assert many.label == "unclear"
    assert any("would be: triangle" in note for note in many.notes)


def test_more_than_half_of_a_region_missing_takes_the_label():
    found = judge(gone(step(TRIANGLE), [(0, 0), (1, 1), (2, 2)], failed=False), chance=0.1)
    assert found.label == "unclear"


@pytest.mark.parametrize(("count", "expected"), [(12, "triangle"), (13, "unclear")])
def test_too_many_stitches_that_did_not_converge_take_the_label(count, expected):
    matrix = bare(step(TRIANGLE))
    converged = np.ones(25, dtype=bool)
    converged[:count] = False
    table = pd.DataFrame(converged.reshape(5, 5)).astype("boolean")
    found = judge(Matrix(**{**vars(matrix), "converged": table}), chance=0.1)
    assert found.label == expected
    assert any(f"{count} of 25 values" in note for note in found.notes)


def test_the_row_and_column_of_the_image_change_no_label():
    values = step(TRIANGLE)
    wider = values.reindex(index=range(-1, 5), columns=range(-1, 5)).fillna(0.2)
    first, second = (judge(bare(v), chance=0.1, test_images=800) for v in (values, wider))
    assert second.parameters == first.parameters
    assert second.p_value == pytest.approx(first.p_value)
    assert second.reach.tolist() == [pd.NA, 0, 1, 2, 3, 4]


def test_a_matrix_of_images_is_called_that():
    values = pd.DataFrame(0.5, index=range(-1, 5), columns=[-1])
    notes = judge(bare(values), chance=0.1, sender_layers=5, receiver_layers=5).notes
    assert any("matrix of images" in note and "no shape to judge" in note for note in notes)
    assert not any("at least two layers" in note for note in notes)
    alone = judge(bare(values.T), chance=0.1, sender_layers=5, receiver_layers=5).notes
    assert any("the image is the only sender" in note for note in alone)
    small = judge(bare(pd.DataFrame([[0.5]])), chance=0.1).notes
    assert any("at least two layers" in note for note in small)


def test_the_row_of_the_image_is_not_counted():
    values = step(TRIANGLE).reindex(range(-1, 5))
    values.loc[-1, :2] = 0.2
    matrix = bare(values)
    matrix.converged.loc[-1] = False
    matrix.failed.loc[-1, 3] = True
    found = judge(matrix, chance=0.1)
    assert (found.label, found.notes) == ("triangle", judge(bare(step(TRIANGLE)), chance=0.1).notes)
    own = matrix.without_image()
    pd.testing.assert_frame_equal(own.values, step(TRIANGLE))
    tables = (own.unconverged, own.failed, own.missing)
    assert [int(table.to_numpy().sum()) for table in tables] == [0, 0, 0]
    assert own.without_image() is own


def test_a_self_pair_and_some_layers_are_noted():
    values = step(TRIANGLE).loc[[0, 2, 4]]
    notes = judge(bare(values, "a", "a"), chance=0.1, sender_layers=5).notes
    assert any("identity is an exact solution" in note for note in notes)
    assert any("only 3 of the sender's 5 layers" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chance": 1.0}, "chance: 1"),
        ({"chance": -0.1}, "chance: -0.1"),
        ({"test_images": 0}, "test images: 0"),
        ({"sender_accuracy": 93.0}, "percent"),
        ({"values": step(TRIANGLE) * 100}, "sender layer 0, receiver layer 0: 90"),
        ({"sender_accuracy": math.nan, "receiver_accuracy": math.nan}, "at least one"),
        ({"sender_layers": 4}, "beyond the sender's 4 layers"),
    ],
)
def test_wrong_inputs_are_refused_in_plain_words(change, reason):
    given = {
        "values": step(TRIANGLE),
        "sender_accuracy": 0.9,
        "receiver_accuracy": 0.9,
        "test_images": 100,
        **change,
    }
    with pytest.raises(InputError, match=reason):
        judge_bare(given.pop("values"), **given)


def test_predictions_of_another_matrix_are_refused():
    with pytest.raises(InputError, match="24 cells for a matrix of 25"):
        judge(bare(step(TRIANGLE)), chance=0.1, correct=Correct(planted(0, 24, 10)))


def test_a_verdict_survives_json():
    values = step(TRIANGLE)
    values.loc[:1, 1:] = math.nan
    found = json.loads(json.dumps(judge(bare(values), chance=0.1).to_dict(), allow_nan=False))
    assert found["label"] == "unclear"
    assert found["upper"] == pytest.approx(0.25)
    assert found["reach"] == {"0": 0, "1": 0, "2": 2, "3": 3, "4": 4}
    values.loc[0] = math.nan
    assert "0" not in judge(bare(values), chance=0.1).to_dict()["reach"]
    values.loc[0] = 0.2
    assert judge(bare(values), chance=0.1).to_dict()["reach"]["0"] is None
    assert set(found) >= {"shape", "p_value", "cells", "intervals", "notes", "explained_by"}


@pytest.mark.parametrize(("name", "own"), [("r1111_r1111", 0.9347), ("r1112_r1122", 0.9414)])
def test_the_published_matrices_are_triangles(name, own):
    path = SHARED / "reference" / f"{name}.csv"
    if not path.is_file():
        pytest.skip("the published matrices are not beside the checkout")
    found = judge_bare(
        read_matrix(path), sender_accuracy=own, receiver_accuracy=own, test_images=1808
    )
    assert found.label == "triangle"
    assert found.label_shares == {"triangle": 1.0}
    assert found.p_value < 0.05


# Verdicts on a sweep


class Sweep:
    """Tables of a sweep in which every trial's predictions have the accuracy it reports."""

    def __init__(self, images: int = 400) -> None:
        self.truth = np.arange(images) % 10
        self.rows: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.networks: list[dict[str, Any]] = []

    def predicted(self, accuracy: float) -> list[int]:
        wrong = np.arange(len(self.truth)) >= round(accuracy * len(self.truth))
        return ((self.truth + wrong) % 10).tolist()

    def network(self, name: str, accuracy: float = 0.9, **other: Any) -> None:
        self.networks.append(
            {
                "network": name,
                "family": "resnet",
                "options": '{"blocks": [1, 1, 1, 1]}',
                "weights": "trained",
                "depth": 4,
                "classes": 10,
                "test_accuracy": accuracy,
                "predictions": self.predicted(accuracy),
                **other,
            }
        )

    def matrix(
        self, sender: str, receiver: str, values: pd.DataFrame, repeat: int = 0, **other: Any
    ) -> None:
        for (i, j), value in values.stack().items():
            trial = f"t{len(self.rows)}"
            self.rows.append(
                {
                    "trial": trial,
                    "sender": sender,
                    "receiver": receiver,
                    "sender_layer": i,
                    "receiver_layer": j,
                    "repeat": repeat,
                    "number": 0,
                    "status": "failed" if math.isnan(value) else "finished",
                    "val_accuracy": value,
                    "test_accuracy": value,
                    "accuracy_calibrated": value,
                    "penalty": 0.9 - value,
                    "converged": None if math.isnan(value) else True,
                    "sender_accuracy": 0.9,
                    "receiver_accuracy": 0.9,
                    "sender_kind": "trained",
                    "receiver_kind": "trained",
                    **other,
                }
            )
            if not math.isnan(value):
                self.predictions.append({"trial": trial, "predictions": self.predicted(value)})

    @property
    def results(self) -> pd.DataFrame:
        return check_results(pd.DataFrame(self.rows))

    def judge(self, **other: Any) -> dict[tuple[str, str], Verdict]:
        given = {
            "predictions": pd.DataFrame(self.predictions),
            "labels": pd.DataFrame({"label": self.truth}),
            "networks": pd.DataFrame(self.networks) if self.networks else None,
            "resamples": 200,
            **other,
        }
        found = verdicts(self.results, **given)
        return {(v.matrix.sender, v.matrix.receiver): v for v in found}


def test_a_sweep_is_judged_by_its_predictions():
    sweep = Sweep()
    sweep.network("a")
    sweep.network("b")
    sweep.matrix("a", "b", step(TRIANGLE))
    found = sweep.judge()["a", "b"]
    assert (found.label, found.control, found.chance) == ("triangle", None, 0.1)
    assert found.intervals["triangle"].method == IMAGES
    # The band has right what the better network has: nothing about it is uncertain.
    assert found.intervals["diagonal"].low == pytest.approx(0, abs=1e-6)
    assert not any("held fixed" in note for note in found.notes)


def test_without_the_networks_own_predictions_their_accuracy_is_held_fixed():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE))
    assert any("held fixed" in note for note in sweep.judge()["a", "b"].notes)


def test_repeats_are_averaged_image_by_image():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE))
    sweep.matrix("a", "b", step(FULL), repeat=1)
    found = sweep.judge()["a", "b"]
    assert found.parameters.upper == pytest.approx((0.25 + 1) / 2)
    assert found.intervals["triangle"].method == IMAGES
    assert any("2 repeats of the same networks" in note for note in found.notes)


def test_a_calibrated_accuracy_that_predictions_do_not_give_falls_back_to_counts():
    sweep = Sweep()
    sweep.matrix("a", "b", step(NOTHING))
    for row in sweep.rows:
        row["accuracy_calibrated"] = row["val_accuracy"] + 0.3
    found = sweep.judge()["a", "b"]
    assert found.matrix.value_name == "accuracy_calibrated"
    assert found.intervals["triangle"].method == BINOMIAL
    assert any("raw accuracy and not for the calibrated accuracy" in note for note in found.notes)


def test_without_all_calibrated_accuracies_all_pairs_are_judged_by_the_raw_ones():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE), accuracy_calibrated=math.nan)
    sweep.matrix("b", "a", step(FULL))
    found = sweep.judge()
    # Of one combination of factors no two pairs are judged by different columns.
    assert {v.matrix.value_name for v in found.values()} == {"test_accuracy"}
    asked = sweep.judge(value="val_accuracy")
    assert {v.matrix.value_name for v in asked.values()} == {"val_accuracy"}


def test_labels_of_other_images_are_noticed():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE))
    with pytest.raises(InputError, match="400 test images, but there are 399"):
        sweep.judge(labels=sweep.truth[:-1])
    with pytest.raises(InputError, match="belong to one sweep"):
        sweep.judge(labels=(sweep.truth + 1) % 10, value="test_accuracy")


def test_chance_comes_from_the_classes_or_has_to_be_given():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE))
    assert sweep.judge()["a", "b"].chance == pytest.approx(0.1)
    assert sweep.judge(chance=0.05)["a", "b"].chance == 0.05
    with pytest.raises(InputError, match="chance"):
        verdicts(sweep.results)
    sweep.network("a", classes=10)
    sweep.network("b", classes=100)
    with pytest.raises(InputError, match="10 and 100 classes"):
        sweep.judge()


def test_depth_is_that_of_the_whole_network_where_it_is_known():
    sweep = Sweep()
    part = step(TRIANGLE).loc[[0, 1, 2], [0, 1, 2]]
    sweep.matrix("a", "b", part)
    sweep.network("a")
    sweep.network("b")
    found = sweep.judge()["a", "b"]
    assert found.parameters.cells == {"lower": 3, "band": 3, "upper": 3}
    assert any("only 3 of the sender's 5 layers" in note for note in found.notes)


def test_a_table_without_kinds_is_of_trained_networks():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE))
    for row in sweep.rows:
        del row["sender_kind"], row["receiver_kind"], row["accuracy_calibrated"]
    found = sweep.judge()["a", "b"]
    assert found.control is None
    assert any("nothing says whether a and b are trained" in note for note in found.notes)
    sweep.network("a", weights="random")
    sweep.network("b")
    found = sweep.judge()["a", "b"]
    assert found.control == "untrained_sender"
    assert not any("nothing says" in note for note in found.notes)


def cells(sender: str, receiver: str, layers: range | list[int]) -> pd.DataFrame:
    return pd.DataFrame(
        [(sender, receiver, i, j) for i, j in itertools.product(layers, layers)],
        columns=["sender", "receiver", "sender_layer", "receiver_layer"],
    )


def test_layers_that_no_trial_has_reached_are_missing_from_the_plan():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE).loc[:2, :2])
    assert sweep.judge()["a", "b"].label == "triangle"
    found = sweep.judge(planned=cells("a", "b", range(5)))["a", "b"]
    assert (found.label, found.withheld, found.sound) == ("unclear", "gaps", False)
    assert any("16 of 25 cells have not been run" in note for note in found.notes)
    assert found.matrix.values.shape == (5, 5)
    assert found.parameters.cells == {"lower": 3, "band": 3, "upper": 3}


def test_layers_chosen_on_purpose_are_not_missing():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE).loc[[0, 2, 4], [0, 2, 4]])
    sweep.network("a")
    sweep.network("b")
    found = sweep.judge(planned=cells("a", "b", [0, 2, 4]))["a", "b"]
    assert (found.label, found.withheld) == ("triangle", None)
    with pytest.raises(InputError, match="planned: there is no column sender_layer"):
        sweep.judge(planned=cells("a", "b", [0]).drop(columns="sender_layer"))


def test_a_linear_probe_on_the_sender_is_part_of_the_verdict():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE))
    sweep.matrix("a-untrained", "b", step(NOTHING), sender_kind="random")
    table = pd.DataFrame(
        {"network": "a", "layer": range(-1, 4), "test_accuracy": [0.2, 0.3, 0.5, 0.86, 0.9]}
    )
    found = sweep.judge(probes=table)
    (note,) = [note for note in found["a", "b"].notes if "linear probe" in note]
    assert "0.25, 0.50, 0.95 and 1.00 on the sender's layers 0, 1, 2 and 3" in note
    assert "from layer 2 on" in note
    assert not any("probe" in note for note in found["a-untrained", "b"].notes)
    (note,) = [
        note for note in sweep.judge(probes=table[:4])["a", "b"].notes if "linear probe" in note
    ]
    assert "from layer 2 on" in note
    (note,) = [
        note for note in sweep.judge(probes=table[:3])["a", "b"].notes if "linear probe" in note
    ]
    assert "not linearly readable" in note


# Controls


@pytest.mark.parametrize(
    ("sender", "receiver", "expected"),
    [
        ("trained", "file", None),
        ("random", "trained", "untrained_sender"),
        ("trained", "random_raw", "untrained_receiver"),
        ("random", "random", "untrained_both"),
        ("class_only", "trained", "class_only"),
    ],
)
def test_kinds_of_networks_make_kinds_of_controls(sender, receiver, expected):
    sweep = Sweep()
    sweep.matrix("x", "y", step(TRIANGLE), sender_kind=sender, receiver_kind=receiver)
    found = sweep.judge()["x", "y"]
    assert found.control == expected
    assert found.label == "triangle"
    if expected is not None:
        # Whatever is printed or stored calls it a control.
        assert found.headline == f"control ({CONTROL_TITLES[expected]}), shaped like a triangle"
        assert found.to_dict()["label"] == found.headline
        assert found.headline not in LABELS


CLASS_ONLY = {"sender_kind": "class_only"}


def with_control(
    levels: dict[str, float], sender: str = "a-class-only", receiver: str = "b", **other: Any
) -> Verdict:
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE), **{"factor.loss": "task"})
    sweep.matrix(sender, receiver, step(levels), **{"factor.loss": "task", **CLASS_ONLY, **other})
    return sweep.judge()["a", "b"]


def test_a_triangle_that_class_information_makes_too_is_called_that():
    found = with_control(TRIANGLE)
    assert found.label == "triangle"
    assert found.explained_by == ["class_only"]
    assert any(
        "a-class-only → b (class-only sender) makes the same shape" in note
        and "class information suffices" in note
        for note in found.notes
    )


def test_a_control_that_performs_everywhere_explains_a_triangle_too():
    found = with_control(FULL)
    assert found.explained_by == ["class_only"]
    assert any("as high wherever this pair performs" in note for note in found.notes)


UNCLEAR = {"lower": 0.9, "band": 0.9, "upper": 0.76}
LITTLE = "says little about the layers"


@pytest.mark.parametrize(
    ("pair", "control", "where"),
    [
        (UNCLEAR, FULL, "in every region"),
        ({"lower": 0.84, "band": 0.84, "upper": 0.69}, TRIANGLE, "in the lower and band regions"),
        (UNCLEAR, TRIANGLE, None),
        (UNCLEAR, NOTHING, None),
        # This pair performs nowhere, so nothing is as high where it does.
        ({"lower": 0.6, "band": 0.6, "upper": 0.5}, FULL, None),
    ],
)
def test_an_unclear_pair_is_told_of_a_control_that_is_as_high(pair, control, where):
    sweep = Sweep()
    sweep.matrix("a", "b", step(pair))
    sweep.matrix("a-class-only", "b", step(control), **CLASS_ONLY)
    found = sweep.judge()["a", "b"]
    assert (found.label, found.explained_by) == ("unclear", [])
    notes = [note for note in found.notes if LITTLE in note]
    assert len(notes) == (where is not None)
    for note in notes:
        assert note.startswith("a-class-only → b (class-only sender) reaches as much")
        assert str(where) in note


def test_a_pair_whose_label_was_taken_back_is_told_of_a_control_too():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE), converged=False)
    sweep.matrix("a-class-only", "b", step(FULL), **CLASS_ONLY)
    found = sweep.judge()["a", "b"]
    assert (found.label, found.withheld, found.explained_by) == ("unclear", "unconverged", [])
    assert any(LITTLE in note for note in found.notes)


def test_an_unclear_pair_is_told_of_an_image_that_is_as_high_as_the_band():
    sweep = Sweep()
    values = step(UNCLEAR).reindex(range(-1, 5))
    values.loc[-1] = 0.9
    sweep.matrix("a", "b", values)
    found = sweep.judge()["a", "b"]
    assert (found.label, found.explained_by) == ("unclear", [])
    assert any("row of the image" in note and LITTLE in note for note in found.notes)


@pytest.mark.parametrize("levels", [NOTHING, DIAGONAL, {"lower": 0.7, "band": 0.9, "upper": 0.3}])
def test_a_control_that_fails_where_the_pair_performs_explains_nothing(levels):
    assert with_control(levels).explained_by == []


@pytest.mark.parametrize(
    "other",
    [
        {"sender": "c-class-only"},
        {"receiver": "c"},
        {"sender": "a-too-class-only"},
        {"factor.loss": "mse"},
    ],
)
def test_controls_of_other_pairs_or_factors_explain_nothing(other):
    assert with_control(TRIANGLE, **other).explained_by == []


def test_a_random_network_of_the_same_architecture_is_a_control_whatever_its_name():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE))
    sweep.matrix("zero", "b", step(TRIANGLE), sender_kind="random")
    sweep.matrix("a", "zero", step(TRIANGLE), receiver_kind="random")
    assert sweep.judge()["a", "b"].explained_by == []
    for name in ("a", "b", "zero"):
        sweep.network(name)
    assert sweep.judge()["a", "b"].explained_by == ["untrained_sender", "untrained_receiver"]
    sweep.networks[-1]["options"] = '{"blocks": [2, 2, 2, 2]}'
    assert sweep.judge()["a", "b"].explained_by == []


@pytest.mark.parametrize(("level", "expected"), [(0.9, ["image"]), (0.5, [])])
def test_the_image_explains_what_it_does_as_well(level, expected):
    sweep = Sweep()
    values = step(TRIANGLE).reindex(range(-1, 5))
    values.loc[-1] = level
    sweep.matrix("a", "b", values)
    assert sweep.judge()["a", "b"].explained_by == expected


def test_a_control_with_gaps_explains_nothing():
    sweep = Sweep()
    sweep.matrix("a", "b", step(TRIANGLE))
    sweep.matrix("a-class-only", "b", step(FULL).loc[1:2, [1]], sender_kind="class_only")
    planned = cells("a-class-only", "b", range(5))
    assert sweep.judge(planned=planned)["a", "b"].explained_by == []
    # Two cells are no half of the pair's regions either, whatever was planned.
    assert sweep.judge()["a", "b"].explained_by == []


def test_the_image_explains_nothing_by_less_than_half_of_its_row():
    sweep = Sweep()
    values = step(TRIANGLE).reindex(range(-1, 5))
    sweep.matrix("a", "b", values.loc[0:])
    sweep.matrix("a", "b", pd.DataFrame(0.9, index=[-1], columns=[0, 1]))
    assert sweep.judge()["a", "b"].explained_by == []


def test_a_control_judged_by_another_column_explains_nothing():
    pair, control = (
        judge(Matrix.bare(step(TRIANGLE), name, "b", sender_accuracy=0.9, value_name=value),
              chance=0.1, control=kind)
        for name, value, kind in (
            ("a", "test_accuracy", None),
            ("a-class-only", "accuracy_calibrated", "class_only"),
        )
    )  # fmt: skip
    kinds = [("trained", "trained"), ("class_only", "trained")]
    assert controls_of(pair, [pair, control], kinds, None) == []


def test_a_bare_matrix_can_be_a_control():
    given = {"sender_accuracy": 0.9, "receiver_accuracy": 0.9, "test_images": None}
    found = judge_bare(step(TRIANGLE), control="class_only", **given)
    assert found.headline == "control (class-only sender), shaped like a triangle"
    with pytest.raises(InputError, match="did you mean 'class_only'"):
        judge_bare(step(TRIANGLE), control="class_onl", **given)


def test_a_control_is_not_explained_by_another():
    sweep = Sweep()
    for name in ("a-class-only", "a-untrained"):
        kind = "class_only" if "class" in name else "random"
        sweep.matrix(name, "b", step(TRIANGLE), sender_kind=kind)
    assert all(v.explained_by == [] for v in sweep.judge().values())


# Several seeds


def seeds(names: str, **other: Any) -> Sweep:
    sweep = Sweep()
    for name in names:
        sweep.network(name)
    for sender, receiver in ordered_pairs(names):
        sweep.matrix(sender, receiver, step(TRIANGLE), **other)
    return sweep


def test_three_seeds_of_an_architecture_have_a_verdict_together():
    sweep = seeds("abc")
    sweep.matrix("a", "a", step(FULL))
    sweep.matrix("a-untrained", "b", step(TRIANGLE), sender_kind="random")
    found = architecture_verdicts(list(sweep.judge().values()), pd.DataFrame(sweep.networks))
    assert [v.label for v in found] == ["triangle"]
    assert found[0].intervals["triangle"].method == NETWORKS
    assert found[0].matrix.kind == "pair"
    assert any("6 pairs of 3 senders and 3 receivers" in note for note in found[0].notes)


def test_what_explains_every_pair_explains_the_architecture():
    sweep = seeds("abc")
    for name in "abc":
        for other in set("abc") - {name}:
            sweep.matrix(f"{name}-class-only", other, step(FULL), sender_kind="class_only")
            if name == "a":
                sweep.matrix("a-untrained", other, step(FULL), sender_kind="random")
    (found,) = architecture_verdicts(list(sweep.judge().values()), pd.DataFrame(sweep.networks))
    assert found.explained_by == ["class_only"]
    assert any("class-only sender" in note for note in found.notes)


def test_pairs_without_a_scale_are_left_out_and_do_not_count():
    group = [bare(step(TRIANGLE), s, r) for s, r in ordered_pairs("abc")]
    poor = bare(step(NOTHING), "a", "d", own=0.15)
    found = judge_networks([*group, poor], chance=0.1, sender="R", receiver="R'")
    assert found.best_accuracy == pytest.approx(0.9)
    assert any("left out" in note and "a → d" in note for note in found.notes)
    assert any("mean of 6 pairs of 3 senders and 3 receivers" in note for note in found.notes)
    senders = [bare(step(TRIANGLE), s, "x", own=0.9 if s == "a" else 0.15) for s in "abc"]
    with pytest.raises(InputError, match="at least 3"):
        judge_networks(senders, chance=0.1, sender="R", receiver="R'")
    with pytest.raises(InputError, match="left out"):
        judge_networks([poor], chance=0.1, sender="R", receiver="R'")


def test_a_pair_with_values_for_the_image_alone_is_left_out():
    group = [
        bare(step(TRIANGLE).reindex(range(-1, 5)), s, r, own=0.9) for s, r in ordered_pairs("abc")
    ]
    image = bare(pd.DataFrame(math.nan, index=range(-1, 5), columns=range(5)), "a", "d")
    image.values.loc[-1] = 0.5
    found = judge_networks([*group, image], chance=0.1, sender="R", receiver="R'")
    assert any("left out" in note and "a → d" in note for note in found.notes)
    assert any("mean of 6 pairs" in note for note in found.notes)


def test_two_seeds_are_no_population():
    sweep = seeds("ab")
    assert architecture_verdicts(list(sweep.judge().values()), pd.DataFrame(sweep.networks)) == []


def test_self_pairs_of_three_seeds_are_a_group_of_their_own():
    sweep = Sweep()
    for name in "abc":
        sweep.network(name)
        sweep.matrix(name, name, step(TRIANGLE))
    found = architecture_verdicts(list(sweep.judge().values()), pd.DataFrame(sweep.networks))
    assert [v.matrix.kind for v in found] == ["self-pair"]


def test_judging_needs_none_of_the_training_libraries():
    command = (
        "import sys, stitch_sweep.analysis.matrix.verdict, stitch_sweep.analysis.matrix.populations;"
        "print([m for m in ('torch', 'ray', 'optuna', 'mlflow') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
