from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stitch_sweep.analysis.ladder.covariance import Errors, random_residuals
from stitch_sweep.analysis.ladder.points import (
    POINT_COLUMNS,
    check_points,
    ladder_points,
    merge_shared,
    shared_networks,
)
from stitch_sweep.analysis.ladder.ranks import rank_correlation
from stitch_sweep.analysis.ladder.transition import fit_ladder, fit_ladders
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.order import OrderParameters
from stitch_sweep.analysis.matrix.uncertainty import Interval
from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.core.errors import InputError

SIZES = np.array([4, 5, 6, 7, 8, 10, 12, 16])


def points(sizes: Any, order: Any, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"size": sizes, "order": order, **columns})


def seeds(change: Any, each: int = 2, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """`each` points at every size, of independent pairs."""
    sizes = np.repeat(SIZES, each).astype(float)
    random = np.random.default_rng(seed)
    return points(sizes, change(sizes) + noise * random.standard_normal(len(sizes)))


def step(sizes: np.ndarray) -> np.ndarray:
    return np.where(sizes < 7, 1.0, 0.2)


def logistic(sizes: np.ndarray) -> np.ndarray:
    """From 1 to 0.2 around 8, nine tenths and one tenth of the change at 8 sqrt(2) and its inverse."""
    return 0.2 + 0.8 / (1 + np.exp(2 * math.log(9) * np.log(sizes / 8) / math.log(2)))


class TestNoiseFree:
    def test_a_step_is_found_between_its_two_sizes(self):
        fit = fit_ladder(seeds(step))
        assert (fit.status, fit.selected) == ("transition", "step")
        assert fit.transition is not None
        assert (fit.transition.low, fit.transition.high) == pytest.approx((6, 7))
        found = fit.models["step"].parameters
        assert found == pytest.approx({"before": 1, "after": 0.2, "place": math.sqrt(42)})
        assert fit.curve(SIZES) == pytest.approx(step(SIZES))

    def test_a_logistic_change_is_found_with_its_width(self):
        fit = fit_ladder(seeds(logistic))
        assert (fit.status, fit.selected) == ("transition", "logistic")
        found = fit.models["logistic"].parameters
        truth = {"before": 1, "after": 0.2, "place": 8, "ratio": 2}
        assert found == pytest.approx(truth, rel=1e-3)
        assert fit.curve(SIZES) == pytest.approx(logistic(SIZES), abs=1e-3)
        assert fit.transition.low <= 8 <= fit.transition.high

    @pytest.mark.parametrize(
        ("change", "selected"),
        [
            (lambda s: 0.8 + 0 * s, "constant"),
            (lambda s: 2 - np.log2(s) / 2, "linear"),
            (lambda s: 1 - s / 20, "linear"),  # straight in size, bent in its logarithm
        ],
    )
    def test_no_transition_where_there_is_none(self, change, selected):
        fit = fit_ladder(seeds(change))
        assert (fit.status, fit.selected, fit.transition) == ("no transition", selected, None)
        assert math.isnan(fit.place)
        assert fit.p_value == 1
        assert "No transition between these sizes (4 to 16; 16 points at 8 sizes)" in fit.statement

    def test_the_slope_of_a_line_is_per_doubling(self):
        fit = fit_ladder(seeds(lambda s: 2 - np.log2(s) / 2))
        assert fit.per_doubling == pytest.approx(-0.5)
        assert fit.models["linear"].predict([4, 32]) == pytest.approx([1, -0.5])


@pytest.fixture(scope="module")
def fit():
    return fit_ladder(seeds(step, noise=0.1))


class TestNoisy:
    def test_another_unit_of_size_moves_the_place_and_nothing_else(self, fit):
        table = seeds(step, noise=0.1)
        other = fit_ladder(table.assign(size=table["size"] * 1000))
        assert other.status == fit.status == "transition"
        assert other.place == pytest.approx(1000 * fit.place)
        assert other.transition.low == pytest.approx(1000 * fit.transition.low)
        assert other.transition.high == pytest.approx(1000 * fit.transition.high)
        assert (other.p_value, other.selected) == (fit.p_value, fit.selected)

    def test_another_unit_and_origin_of_the_value_move_nothing(self, fit):
        table = seeds(step, noise=0.1)
        other = fit_ladder(table.assign(order=3 - 10 * table["order"]))
        assert other.place == pytest.approx(fit.place)
        assert other.transition == fit.transition
        assert "falls" in fit.statement
        assert "rises" in other.statement

    def test_names_and_order_of_rows_are_nothing(self, fit):
        table = seeds(step, noise=0.1)
        names = [f"network {k}" for k in np.random.default_rng(1).permutation(2 * len(table))]
        table["sender"], table["receiver"] = names[::2], names[1::2]
        other = fit_ladder(table.sample(frac=1, random_state=3))
        assert other.statement == fit.statement
        assert other.transition == fit.transition
        assert other.p_value == fit.p_value

    def test_repeats_itself(self, fit):
        assert fit_ladder(seeds(step, noise=0.1)).to_dict() == fit.to_dict()

    def test_an_interval_that_ends_with_the_ladder_says_so(self):
        edge = seeds(lambda s: np.where(s < 4.5, 1.0, 0.2))
        assert "smallest sizes" in " ".join(fit_ladder(edge).notes)
        assert not fit_ladder(seeds(step)).notes

    def test_any_value_can_be_fitted_with_its_own_intervals(self):
        table = seeds(step).rename(columns={"order": "diagonal"})
        table["diagonal_low"], table["diagonal_high"] = table["diagonal"] - 1, table["diagonal"] + 1
        assert "diagonal index falls" in fit_ladder(table, value="diagonal").statement

    def test_one_far_point_makes_no_transition(self):
        sizes = np.array([*np.repeat([1.0, 1.01, 1.02], 4), 100.0])
        fit = fit_ladder(points(sizes, sizes > 50))
        assert fit.status == "no transition"
        assert "logistic" not in fit.models  # none would have its middle between two points

    def test_missing_sizes_widen_the_interval_to_the_gap(self):
        table = seeds(step, each=3, noise=0.02)
        table = table[~table["size"].isin([6, 7])]
        fit = fit_ladder(table)
        assert fit.transition.low <= 5 * 1.001
        assert fit.transition.high >= 8 / 1.001


class TestFewPoints:
    @pytest.mark.parametrize("n", [3, 5, 11])
    def test_no_model_is_chosen(self, n):
        sizes = np.linspace(4, 20, n)
        fit = fit_ladder(points(sizes, np.where(sizes < 9, 1.0, 0.0)))
        assert (fit.status, fit.selected) == ("trend", None)
        assert (fit.p_value, fit.transition) == (None, None)
        assert set(fit.models) == {"constant", "linear"}
        assert fit.statement.startswith(f"Trend only ({n} points at {n} sizes")
        assert fit.curve(sizes) == pytest.approx(fit.models["linear"].predict(sizes))

    def test_twelve_are_enough_and_three_sizes_are_not(self):
        sizes = np.linspace(4, 20, 12)
        assert fit_ladder(points(sizes, sizes < 9)).status == "transition"
        three = np.repeat([4, 8, 16], 4)
        fit = fit_ladder(points(three, three < 6))
        assert fit.status == "trend"
        assert "4 sizes are needed" in fit.statement

    def test_slope_interval_and_p_value_are_those_of_a_linear_regression(self):
        random = np.random.default_rng(0)
        sizes, order = SIZES[:6], random.standard_normal(6)
        fit = fit_ladder(points(sizes, order))
        oracle = stats.linregress(np.log2(sizes), order)
        assert fit.per_doubling == pytest.approx(oracle.slope)
        assert fit.slope_p_value == pytest.approx(oracle.pvalue)
        reach = stats.t.ppf(0.95, 4) * oracle.stderr
        found = (fit.slope.low, fit.slope.high)
        assert found == pytest.approx((oracle.slope - reach, oracle.slope + reach))

    def test_two_directions_of_a_pair_are_averaged(self):
        sizes, order = np.repeat(SIZES[:5], 2), np.random.default_rng(0).standard_normal(10)
        a, b = [f"{s}a" for s in sizes], [f"{s}b" for s in sizes]
        turn = np.arange(10) % 2 == 0
        table = points(sizes, order, sender=np.where(turn, a, b), receiver=np.where(turn, b, a))
        fit = fit_ladder(table)
        alone = fit_ladder(points(SIZES[:5], order.reshape(5, 2).mean(axis=1)))
        assert fit.slope == alone.slope
        assert fit.rank_p_value == alone.rank_p_value
        assert "10 points were averaged to 5" in fit.statement

    def test_networks_are_counted_and_not_pairs(self):
        pairs = list(itertools.permutations("abc", 2))
        rows = [(s, f"{s}{a}", f"{s}{b}", s < 7) for s in (4, 6, 8) for a, b in pairs]
        table = pd.DataFrame(rows, columns=["size", "sender", "receiver", "order"])
        fit = fit_ladder(table)
        assert (fit.points, fit.independent, fit.status) == (18, 9, "trend")

    @pytest.mark.parametrize("n", [0, 1, 2])
    def test_too_few_for_anything(self, n):
        fit = fit_ladder(points(SIZES[:n].astype(float), np.ones(n)))
        assert fit.status == "undefined"
        assert fit.statement.startswith("Undefined")
        assert np.isnan(fit.curve(SIZES)).all()

    def test_one_size_is_no_ladder(self):
        assert fit_ladder(points([8] * 20, np.linspace(0, 1, 20))).status == "undefined"


class TestUndefinedPoints:
    def test_are_counted_and_named(self):
        table = seeds(step)
        table["sender"] = [f"s{k}" for k in range(16)]
        table["receiver"] = [f"r{k}" for k in range(16)]
        table["measure"] = "depth"
        table.loc[3, "order"] = math.nan
        table.loc[5, "size"] = math.nan
        fit = fit_ladder(table)
        assert fit.undefined == ["s3 → r3 (depth 5)", "s5 → r5 (depth unknown)"]
        assert fit.points == 14
        assert "s3 → r3 (depth 5), s5 → r5 (depth unknown)" in fit.statement

    def test_do_not_count_towards_twelve(self):
        table = seeds(step)
        table.loc[:4, "order"] = math.nan
        assert fit_ladder(table).status == "trend"

    def test_nothing_but_undefined(self):
        fit = fit_ladder(seeds(step).assign(order=math.nan))
        assert fit.status == "undefined"
        assert len(fit.undefined) == 16


class TestWhatIsHandedOn:
    @pytest.mark.parametrize("table", [seeds(step), seeds(step)[:4], seeds(step)[:0]])
    def test_is_json(self, table):
        fit = fit_ladder(table)
        found = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
        assert found["statement"] == fit.statement
        assert set(found["models"]) == set(fit.models)

    def test_the_curve_keeps_its_shape(self):
        fit = fit_ladder(seeds(logistic))
        assert fit.curve(np.ones((3, 2))).shape == (3, 2)
        assert np.isnan(fit.curve([math.nan, 4.0])).tolist() == [True, False]

    def test_series_are_fitted_apart(self):
        table = pd.concat(
            [seeds(step).assign(series="loss = task"), seeds(logistic).assign(series="loss = mse")]
        )
        with pytest.raises(InputError, match="2 series"):
            fit_ladder(table)
        fits = fit_ladders(table)
        assert list(fits) == ["loss = mse", "loss = task"]
        assert fits["loss = task"] == fit_ladder(seeds(step))


class TestWrongTables:
    @pytest.mark.parametrize(
        ("table", "said"),
        [
            (seeds(step).drop(columns="size"), "no column size"),
            (seeds(step).drop(columns="order"), "no column order"),
            (points([0.0, 1.0], [0.0, 1.0]), "positive"),
            (points([math.inf, 1.0], [0.0, 1.0]), "positive"),
            (points(["small", "big"], [0.0, 1.0]), "column size of the points must hold numbers"),
            (points([1.0], [0.5], low=[0.6], high=[0.4]), "low is above high"),
        ],
    )
    def test_are_refused(self, table, said):
        with pytest.raises(InputError, match=said):
            fit_ladder(table)

    def test_an_unknown_value_is_refused(self):
        with pytest.raises(InputError, match="did you mean 'order'"):
            fit_ladder(seeds(step), value="ordre")


class TestErrors:
    """Of the points: what weighs how much, and what is not independent."""

    def drawn(self, n: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        random = np.random.default_rng(0)
        root = random.standard_normal((n, n))
        return root @ root.T + np.eye(n), random.standard_normal(n), random.standard_normal(n)

    def test_likelihood_and_coefficients_are_those_of_a_multivariate_normal(self):
        covariance, x, y = self.drawn()
        of = Errors(covariance, x[None], x[None])
        a, b = of.coefficients(y, x)
        squares = of.residuals(of.whiten(y)[None], of.lines).item()
        of_scale = stats.multivariate_normal(a + b * x, covariance * squares / len(y))
        # What is left out is the same for all models.
        left_out = -len(y) / 2 * (1 + math.log(2 * math.pi))
        assert of.log_likelihood(np.array(squares)) + left_out == pytest.approx(of_scale.logpdf(y))
        residual = y - a - b * x
        normal = np.linalg.solve(covariance, np.column_stack([np.ones_like(x), x]))
        assert residual @ normal == pytest.approx(0, abs=1e-12)

    def test_turning_keeps_the_fit_and_the_size_of_the_residuals(self):
        _, x, y = self.drawn()
        of = Errors(np.eye(6), x[None], x[None])
        basis = np.vstack([of.one, of.lines])
        noise = np.random.default_rng(1).standard_normal((50, 6))
        ladders = random_residuals(y @ basis.T @ basis, y, basis, noise)
        assert ladders @ basis.T == pytest.approx(np.tile(basis @ y, (50, 1)))
        squares = of.residuals(ladders, of.lines)
        assert squares == pytest.approx(np.tile(of.residuals(y[None], of.lines), (50, 1)))

    def test_points_of_large_error_weigh_less(self):
        random = np.random.default_rng(0)
        sizes = np.repeat(SIZES, 2).astype(float)
        error = np.where(np.arange(16) % 2, 0.5, 0.01)
        order = np.log2(sizes) + error * random.standard_normal(16)
        unweighted = fit_ladder(points(sizes, order))
        weighted = fit_ladder(points(sizes, order, low=order - error, high=order + error))
        width = weighted.slope.high - weighted.slope.low
        assert width < unweighted.slope.high - unweighted.slope.low
        assert weighted.slope.low < 1 < weighted.slope.high

    @pytest.mark.parametrize("scale", [1e-3, 1.0])
    def test_equal_errors_change_nothing_however_large(self, scale):
        table = seeds(step, noise=0.1)
        known = table.assign(low=table["order"] - scale, high=table["order"] + scale)
        assert fit_ladder(known).to_dict() == fit_ladder(table).to_dict()

    def test_shared_networks(self):
        table = pd.DataFrame({"sender": ["a", "b", "a", "c"], "receiver": ["b", "a", "c", "c"]})
        expected = [
            [1, 1, 0.5, 0],
            [1, 1, 0.5, 0],
            [0.5, 0.5, 1, math.sqrt(0.5)],
            [0, 0, math.sqrt(0.5), 1],
        ]
        assert shared_networks(table) == pytest.approx(np.array(expected))

    def test_linked_pairs_of_one_size_make_one_point(self):
        table = points(
            [4, 4, 4, 4, 8],
            [0.0, 1.0, 2.0, 7.0, 5.0],
            sender=["a", "d", "b", "x", "a"],
            receiver=["b", "c", "c", "y", "d"],
        )
        merged = merge_shared(check_points(table, "order"))
        assert merged["size"].tolist() == [4, 4, 8]
        assert merged["y"].tolist() == [1, 7, 5]


class TestRankCorrelation:
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=2, max_size=6))
    @settings(max_examples=40)
    def test_p_value_is_that_of_all_orders(self, pairs):
        x, y = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))

        def score(y: np.ndarray) -> float:
            return float((np.sign(x[:, None] - x) * np.sign(y[:, None] - y)).sum())

        as_extreme = [
            abs(score(np.array(order))) >= abs(score(y)) for order in itertools.permutations(y)
        ]
        assert rank_correlation(x, y)[1] == pytest.approx(np.mean(as_extreme))

    def test_without_equal_values_it_is_scipys(self):
        x, y = np.random.default_rng(0).standard_normal((2, 9))
        oracle = stats.kendalltau(x, y, method="exact")
        assert rank_correlation(x, y) == pytest.approx((oracle.statistic, oracle.pvalue))

    def test_many_values_take_no_longer(self):
        """Counting the orders of 40 different values would not end."""
        x, y = np.random.default_rng(0).standard_normal((2, 40))
        tau, p = rank_correlation(x, y)
        exact = stats.kendalltau(x, y, method="exact")
        assert tau == pytest.approx(exact.statistic)
        assert p == pytest.approx(exact.pvalue, abs=0.02)


def rejections(count: int, sizes: np.ndarray, **columns: Any) -> int:
    random = np.random.default_rng(count)
    claimed = 0
    for k in range(count):
        order = 0.1 * random.standard_normal(len(sizes))
        claimed += fit_ladder(points(sizes, order, **columns), seed=k).status == "transition"
    return claimed


def coverage(change: Any, count: int) -> tuple[int, int]:
    """How many transitions were claimed, and of them how many intervals hold the place.

    The noise is small enough for most to be found: those that are found by luck are no fair sample.
    """
    random = np.random.default_rng(count)
    claimed, inside = 0, 0
    for k in range(count):
        place = math.exp(random.uniform(math.log(6), math.log(12)))
        table = seeds(lambda s, place=place: change(s, place), noise=0.1, seed=k)
        fit = fit_ladder(table, seed=k)
        if fit.transition is not None:
            claimed += 1
            inside += fit.transition.low <= place <= fit.transition.high
    return claimed, inside


def sharp(sizes: np.ndarray, place: float) -> np.ndarray:
    return np.where(sizes < place, 1.0, 0.0)


def smooth(sizes: np.ndarray, place: float) -> np.ndarray:
    return 1 / (1 + np.exp(2 * math.log(9) * np.log(sizes / place) / math.log(1.8)))


class TestRates:
    """A correct rate fails these once in a thousand seeds; the seeds are fixed."""

    def test_false_positives(self):
        count = 60
        assert rejections(count, np.repeat(SIZES, 2)) <= stats.binom.ppf(0.999, count, 0.05)

    def test_the_place_is_in_its_interval(self):
        claimed, inside = coverage(sharp, 10)
        assert inside >= stats.binom.ppf(0.001, claimed, 0.9)
        assert claimed > 0

    @pytest.mark.long
    def test_false_positives_of_many(self):
        count = 1000
        assert rejections(count, np.repeat(SIZES, 2)) <= stats.binom.ppf(0.999, count, 0.05)

    @pytest.mark.long
    @pytest.mark.parametrize("change", [sharp, smooth])
    def test_the_places_of_many_are_in_their_intervals(self, change):
        claimed, inside = coverage(change, 300)
        assert inside >= stats.binom.ppf(0.001, claimed, 0.9)
        assert claimed > 0

    @pytest.mark.long
    def test_pairs_that_share_networks_are_no_evidence_of_their_own(self):
        # One value per size, seen through both directions of three pairs: 30 points, 5 values.
        names = [
            [(f"{s}{a}", f"{s}{b}") for a, b in itertools.permutations("abc", 2)] for s in range(5)
        ]
        sizes = np.repeat(SIZES[:5], 6).astype(float)
        senders, receivers = zip(*itertools.chain(*names), strict=True)
        random = np.random.default_rng(0)
        count, linked, alone = 300, 0, 0
        for k in range(count):
            of_network = random.standard_normal((5, 3))
            pairs = [
                of_network[:, a] + of_network[:, b] for a, b in itertools.permutations(range(3), 2)
            ]
            order = 0.1 * np.stack(pairs, axis=1).ravel() + 0.02 * random.standard_normal(30)
            table = points(sizes, order)
            alone += fit_ladder(table, seed=k).status == "transition"
            table = table.assign(sender=senders, receiver=receivers)
            linked += fit_ladder(table, seed=k).status == "transition"
        assert linked <= stats.binom.ppf(0.999, count, 0.05)
        # What it would be if names were not looked at: the fault this guards against.
        assert alone > 2 * 0.05 * count


def verdict(sender: str = "a", receiver: str = "b", order: float = 0.5, **other: Any) -> Verdict:
    values = pd.DataFrame(np.eye(2), index=[0, 1], columns=[0, 1])
    factors = other.pop("factors", {})
    matrix = Matrix.bare(values, sender, receiver, factors=factors)
    parameters = OrderParameters(0.1, 0.9, 0.1, 0.3, 0.8, order, {})
    found = Verdict(matrix, 0.1, 0.9, "diagonal", parameters)
    return replace(found, **other)


NETWORKS = pd.DataFrame(
    {
        "network": ["a", "b", "c"],
        "depth": [4, 4, 9],
        "width": pd.array([8, 8, pd.NA], dtype="Int64"),
        "parameters": [1000, 1000, 4000],
    }
)


class TestPoints:
    def test_a_point_per_matrix(self):
        interval = Interval(0.4, 0.7, 0.95, "images")
        found = ladder_points(
            [verdict(order=0.5, intervals={"order": interval}, factors={"loss": "mse"})], NETWORKS
        )
        assert list(found.columns) == POINT_COLUMNS
        row = found.iloc[0].to_dict()
        named = {"series": "loss = mse", "sender": "a", "receiver": "b", "measure": "depth"}
        assert row.items() >= {**named, "size": 4, "label": "diagonal"}.items()
        assert (row["order"], row["triangle"], row["diagonal"]) == (0.5, 0.3, 0.8)
        assert (row["low"], row["high"]) == (0.4, 0.7)
        assert math.isnan(row["diagonal_low"])

    def test_networks_of_different_sizes_stand_at_the_geometric_mean(self):
        found = ladder_points([verdict("a", "c"), verdict("c", "a")], NETWORKS)
        assert found["size"].tolist() == pytest.approx([6, 6])
        assert found["size"].nunique() == 1
        assert ladder_points([verdict("a", "c")], NETWORKS, "parameters").loc[0, "size"] == 2000

    def test_controls_and_self_pairs_are_left_out_unless_asked_for(self):
        given = [verdict(), verdict("a", "a"), verdict(control="class_only")]
        assert len(ladder_points(given, NETWORKS)) == 1
        assert len(ladder_points(given, NETWORKS, self_pairs=True)) == 2
        assert len(ladder_points(given, NETWORKS, controls=True, self_pairs=True)) == 3

    def test_an_unknown_size_or_order_stays_in_the_table(self):
        found = ladder_points([verdict("a", "c", order=math.nan)], NETWORKS, "width")
        assert found["size"].isna().all()
        assert found["order"].isna().all()
        assert fit_ladder(found).undefined == ["a → c (width unknown)"]

    @pytest.mark.parametrize(
        ("withheld", "reason"),
        [("gaps", "too many cells without a value"), ("unconverged", "most stitches did not")],
    )
    def test_a_matrix_whose_label_was_taken_back_counts_among_the_undefined(self, withheld, reason):
        interval = Interval(0.4, 0.7, 0.95, "images")
        odd = verdict("b", "a", withheld=withheld, intervals={"order": interval})
        found = ladder_points([verdict(), odd], NETWORKS).set_index("sender")
        assert found.loc["b", ["order", "triangle", "diagonal", "low", "high"]].isna().all()
        assert reason in found.loc["b", "reason"]
        assert (found.loc["a", "order"], found.loc["a", "reason"]) == (0.5, "")
        assert len(fit_ladder(found.reset_index()).undefined) == 1

    def test_a_control_is_labelled_as_one(self):
        found = ladder_points([verdict(control="class_only")], NETWORKS, controls=True)
        assert found.loc[0, "label"] == "control (class-only sender), shaped like a diagonal"

    def test_none_is_an_empty_table_that_can_be_fitted(self):
        found = ladder_points([], NETWORKS)
        assert fit_ladder(found).status == "undefined"
        assert fit_ladders(found) == {}

    def test_of_a_ladder_make_a_fit(self):
        sizes = [4, 5, 6, 7, 8, 10]
        names = [f"{s}{k}" for s in sizes for k in range(4)]
        networks = pd.DataFrame({"network": names, "depth": np.repeat(sizes, 4)})
        given = [
            verdict(f"{s}{k}", f"{s}{k + 1}", order=float(s < 7)) for s in sizes for k in (0, 2)
        ]
        fit = fit_ladder(ladder_points(given, networks))
        assert fit.status == "transition"
        assert "6.48 blocks" in fit.statement

    @pytest.mark.parametrize(
        ("networks", "size", "said"),
        [
            (NETWORKS, "dept", "did you mean 'depth'"),
            (NETWORKS.drop(columns="depth"), "depth", "no column depth"),
            (NETWORKS[:1], "depth", "network 'b' has a matrix, but no row"),
            (pd.concat([NETWORKS, NETWORKS[:1]]), "depth", "lists a more than once"),
            (NETWORKS.assign(depth=[4, 0, 9]), "depth", "depth of b is not a positive number"),
            (NETWORKS.assign(depth="deep"), "depth", "must hold numbers"),
        ],
    )
    def test_a_wrong_table_of_networks_is_refused(self, networks, size, said):
        with pytest.raises(InputError, match=said):
            ladder_points([verdict()], networks, size)
