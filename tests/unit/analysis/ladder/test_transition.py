"""Fits of ladders."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stitch_sweep.analysis.ladder.transition import fit_ladder, fit_ladders
from stitch_sweep.core.errors import InputError
from tests.support.ladders import (
    SIZES,
    count_false_positives,
    count_intervals,
    logistic_ladder,
    make_points,
    repeat_sizes,
    sharp_change,
    step_ladder,
)


class TestNoiseFree:
    def test_a_step_is_found_between_its_two_sizes(self):
        fit = fit_ladder(repeat_sizes(step_ladder))
        assert (fit.status, fit.selected) == ("transition", "step")
        assert fit.transition is not None
        assert (fit.transition.low, fit.transition.high) == pytest.approx((6, 7))
        found = fit.models["step"].parameters
        assert found == pytest.approx({"before": 1, "after": 0.2, "place": math.sqrt(42)})
        assert fit.curve(SIZES) == pytest.approx(step_ladder(SIZES))

    def test_a_logistic_change_is_found_with_its_width(self):
        fit = fit_ladder(repeat_sizes(logistic_ladder))
        assert (fit.status, fit.selected) == ("transition", "logistic")
        found = fit.models["logistic"].parameters
        truth = {"before": 1, "after": 0.2, "place": 8, "ratio": 2}
        assert found == pytest.approx(truth, rel=1e-3)
        assert fit.curve(SIZES) == pytest.approx(logistic_ladder(SIZES), abs=1e-3)
        assert fit.transition.low <= 8 <= fit.transition.high

    @pytest.mark.parametrize(
        ("change", "selected"),
        [
            (lambda s: 0.8 + 0 * s, "constant"),
            (lambda s: 2 - np.log2(s) / 2, "linear"),
            (lambda s: 1 - s / 20, "power"),  # straight in size, bent in its logarithm
            (lambda s: 0.2 + s**-1.53, "power"),
        ],
    )
    def test_no_transition_where_there_is_none(self, change, selected):
        fit = fit_ladder(repeat_sizes(change))
        assert (fit.status, fit.selected, fit.transition) == ("no transition", selected, None)
        assert math.isnan(fit.place)
        assert fit.p_value == 1
        assert "No transition between these sizes (4 to 16; 16 points at 8 sizes)" in fit.statement

    def test_the_slope_of_a_line_is_per_doubling(self):
        fit = fit_ladder(repeat_sizes(lambda s: 2 - np.log2(s) / 2))
        assert fit.per_doubling == pytest.approx(-0.5)
        assert fit.models["linear"].predict([4, 32]) == pytest.approx([1, -0.5])


@pytest.fixture(scope="module")
def fit():
    return fit_ladder(repeat_sizes(step_ladder, noise=0.1))


class TestNoisy:
    def test_another_unit_of_size_moves_the_place_and_nothing_else(self, fit):
        table = repeat_sizes(step_ladder, noise=0.1)
        other = fit_ladder(table.assign(size=table["size"] * 1000))
        assert other.status == fit.status == "transition"
        assert other.place == pytest.approx(1000 * fit.place)
        assert other.transition.low == pytest.approx(1000 * fit.transition.low)
        assert other.transition.high == pytest.approx(1000 * fit.transition.high)
        assert (other.p_value, other.selected) == (fit.p_value, fit.selected)

    def test_another_unit_and_origin_of_the_value_move_nothing(self, fit):
        table = repeat_sizes(step_ladder, noise=0.1)
        other = fit_ladder(table.assign(order=3 + 10 * table["order"]))
        assert (other.place, other.transition) == (pytest.approx(fit.place), fit.transition)
        # Points of one size are sorted by their values, so other simulations belong to them.
        turned = fit_ladder(table.assign(order=3 - 10 * table["order"]))
        assert turned.place == pytest.approx(fit.place)
        assert turned.transition.low == pytest.approx(fit.transition.low, rel=0.02)
        assert turned.transition.high == pytest.approx(fit.transition.high, rel=0.02)
        assert "falls" in fit.statement
        assert "rises" in turned.statement

    def test_names_and_order_of_rows_are_nothing(self, fit):
        table = repeat_sizes(step_ladder, noise=0.1)
        names = [f"network {k}" for k in np.random.default_rng(1).permutation(2 * len(table))]
        table["sender"], table["receiver"] = names[::2], names[1::2]
        other = fit_ladder(table.sample(frac=1, random_state=3))
        assert other.statement == fit.statement
        assert other.transition == fit.transition
        assert other.p_value == fit.p_value

    def test_repeats_itself(self, fit):
        assert fit_ladder(repeat_sizes(step_ladder, noise=0.1)).to_dict() == fit.to_dict()

    def test_an_interval_that_ends_with_the_ladder_says_so(self):
        edge = repeat_sizes(lambda s: np.where(s < 4.5, 1.0, 0.2))
        assert "smallest sizes" in " ".join(fit_ladder(edge).notes)
        assert not fit_ladder(repeat_sizes(step_ladder)).notes

    def test_any_value_can_be_fitted_with_its_own_intervals(self):
        table = repeat_sizes(step_ladder).rename(columns={"order": "diagonal"})
        table["diagonal_low"], table["diagonal_high"] = table["diagonal"] - 1, table["diagonal"] + 1
        assert "diagonal index falls" in fit_ladder(table, value="diagonal").statement

    def test_one_far_point_makes_no_transition(self):
        sizes = np.array([*np.repeat([1.0, 1.01, 1.02], 4), 100.0])
        fit = fit_ladder(make_points(sizes, sizes > 50))
        assert fit.status == "no transition"
        assert "logistic" not in fit.models  # none would have its middle between two points

    def test_missing_sizes_widen_the_interval_to_the_gap(self):
        table = repeat_sizes(step_ladder, each=3, noise=0.02)
        table = table[~table["size"].isin([6, 7])]
        fit = fit_ladder(table)
        assert fit.transition.low <= 5 * 1.001
        assert fit.transition.high >= 8 / 1.001


class TestFewPoints:
    @pytest.mark.parametrize("n", [3, 5, 11])
    def test_no_model_is_chosen(self, n):
        sizes = np.linspace(4, 20, n)
        fit = fit_ladder(make_points(sizes, np.where(sizes < 9, 1.0, 0.0)))
        assert (fit.status, fit.selected) == ("trend", None)
        assert (fit.p_value, fit.transition) == (None, None)
        assert set(fit.models) == {"constant", "linear"}
        assert fit.statement.startswith(f"Trend only ({n} points at {n} sizes")
        assert fit.curve(sizes) == pytest.approx(fit.models["linear"].predict(sizes))

    def test_twelve_are_enough_and_three_sizes_are_not(self):
        sizes = np.linspace(4, 20, 12)
        assert fit_ladder(make_points(sizes, sizes < 9)).status == "transition"
        three = np.repeat([4, 8, 16], 4)
        fit = fit_ladder(make_points(three, three < 6))
        assert fit.status == "trend"
        assert "4 sizes are needed" in fit.statement

    def test_slope_interval_and_p_value_are_those_of_a_linear_regression(self):
        random = np.random.default_rng(0)
        sizes, order = SIZES[:6], random.standard_normal(6)
        fit = fit_ladder(make_points(sizes, order))
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
        table = make_points(
            sizes, order, sender=np.where(turn, a, b), receiver=np.where(turn, b, a)
        )
        fit = fit_ladder(table)
        alone = fit_ladder(make_points(SIZES[:5], order.reshape(5, 2).mean(axis=1)))
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
        fit = fit_ladder(make_points(SIZES[:n].astype(float), np.ones(n)))
        assert fit.status == "undefined"
        assert fit.statement.startswith("Undefined")
        assert np.isnan(fit.curve(SIZES)).all()

    def test_one_size_is_no_ladder(self):
        assert fit_ladder(make_points([8] * 20, np.linspace(0, 1, 20))).status == "undefined"


class TestUndefinedPoints:
    def test_are_counted_and_named(self):
        table = repeat_sizes(step_ladder)
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
        table = repeat_sizes(step_ladder)
        table.loc[:4, "order"] = math.nan
        assert fit_ladder(table).status == "trend"

    def test_nothing_but_undefined(self):
        fit = fit_ladder(repeat_sizes(step_ladder).assign(order=math.nan))
        assert fit.status == "undefined"
        assert len(fit.undefined) == 16


class TestWhatIsHandedOn:
    @pytest.mark.parametrize(
        "table",
        [repeat_sizes(step_ladder), repeat_sizes(step_ladder)[:4], repeat_sizes(step_ladder)[:0]],
    )
    def test_is_json(self, table):
        fit = fit_ladder(table)
        found = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
        assert found["statement"] == fit.statement
        assert set(found["models"]) == set(fit.models)

    def test_the_curve_keeps_its_shape(self):
        fit = fit_ladder(repeat_sizes(logistic_ladder))
        assert fit.curve(np.ones((3, 2))).shape == (3, 2)
        assert np.isnan(fit.curve([math.nan, 4.0])).tolist() == [True, False]

    def test_series_are_fitted_apart(self):
        table = pd.concat(
            [
                repeat_sizes(step_ladder).assign(series="loss = task"),
                repeat_sizes(logistic_ladder).assign(series="loss = mse"),
            ]
        )
        with pytest.raises(InputError, match="2 series"):
            fit_ladder(table)
        fits = fit_ladders(table)
        assert list(fits) == ["loss = mse", "loss = task"]
        assert fits["loss = task"] == fit_ladder(repeat_sizes(step_ladder))


class TestWrongTables:
    @pytest.mark.parametrize(
        ("table", "said"),
        [
            (repeat_sizes(step_ladder).drop(columns="size"), "no column size"),
            (repeat_sizes(step_ladder).drop(columns="order"), "no column order"),
            (make_points([0.0, 1.0], [0.0, 1.0]), "positive"),
            (make_points([math.inf, 1.0], [0.0, 1.0]), "positive"),
            (
                make_points(["small", "big"], [0.0, 1.0]),
                "column size of the points must contain numbers",
            ),
            (make_points([1.0], [0.5], low=[0.6], high=[0.4]), "low is above high"),
        ],
    )
    def test_are_refused(self, table, said):
        with pytest.raises(InputError, match=said):
            fit_ladder(table)

    def test_an_unknown_value_is_refused(self):
        with pytest.raises(InputError, match="did you mean 'order'"):
            fit_ladder(repeat_sizes(step_ladder), value="ordre")


class TestRates:
    """A correct rate fails these once in a thousand seeds; the seeds are fixed."""

    def test_false_positives(self):
        count = 60
        assert count_false_positives(count, np.repeat(SIZES, 2)) <= stats.binom.ppf(
            0.999, count, 0.05
        )

    def test_the_place_is_in_its_interval(self):
        claimed, inside = count_intervals(sharp_change, 10)
        assert inside >= stats.binom.ppf(0.001, claimed, 0.9)
        assert claimed > 0
