"""The points of a ladder."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stitch_sweep.analysis.ladder.points import (
    POINT_COLUMNS,
    ladder_points,
)
from stitch_sweep.analysis.ladder.transition import fit_ladder, fit_ladders
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.order_parameters import OrderParameters
from stitch_sweep.analysis.matrix.uncertainty import Interval
from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.core.errors import InputError


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
            (NETWORKS.assign(depth="deep"), "depth", "must contain numbers"),
        ],
    )
    def test_a_wrong_table_of_networks_is_refused(self, networks, size, said):
        with pytest.raises(InputError, match=said):
            ladder_points([verdict()], networks, size)
