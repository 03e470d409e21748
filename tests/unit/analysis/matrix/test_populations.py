"""Verdicts on several networks of one architecture."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from stitch_sweep.analysis.matrix.judging import judge
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.populations import architecture_verdicts, judge_networks
from stitch_sweep.analysis.matrix.uncertainty import (
    NETWORKS,
)
from stitch_sweep.core.errors import InputError
from tests.support.matrices import (
    DIAGONAL,
    FULL,
    NOTHING,
    TRIANGLE,
    SweepTables,
    bare,
    ordered_pairs,
    step,
)


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


def test_receiver_free_columns_are_left_out_in_a_second_judgment():
    """Only columns that every receiver has: here the last layer of all, and one more of a single one."""
    matrix = step(TRIANGLE)
    last = int(matrix.columns[-1])
    matrix[last] = 0.6
    group = [
        replace(bare(matrix, s, r), receiver_free=frozenset({last, 0} if r == "a" else {last}))
        for s, r in ordered_pairs("abc")
    ]
    found = judge_networks(group, chance=0.1, sender="R", receiver="R'")
    assert found.matrix.receiver_free == {last}
    assert found.reduced is not None
    assert list(found.reduced.matrix.values.columns) == list(matrix.columns[:-1])
    # One network alone has the same matrix, so its indices are those of the mean.
    single = judge(group[1], chance=0.1)
    assert single.reduced is not None
    for name in ("lower", "band", "upper"):
        expected = getattr(single.reduced.parameters, name)
        assert getattr(found.reduced.parameters, name) == pytest.approx(expected), name
    assert found.parameters.upper != pytest.approx(found.reduced.parameters.upper)


def test_a_column_that_is_receiver_free_in_some_matrices_stays():
    group = [bare(step(TRIANGLE), s, r) for s, r in ordered_pairs("abc")]
    group[0] = replace(group[0], receiver_free=frozenset({4}))
    found = judge_networks(group, chance=0.1, sender="R", receiver="R'")
    assert found.matrix.receiver_free == frozenset()
    assert found.reduced is None


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


def seeds(names: str, **other: Any) -> SweepTables:
    sweep = SweepTables()
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
    sweep = SweepTables()
    for name in "abc":
        sweep.network(name)
        sweep.matrix(name, name, step(TRIANGLE))
    found = architecture_verdicts(list(sweep.judge().values()), pd.DataFrame(sweep.networks))
    assert [v.matrix.kind for v in found] == ["self-pair"]
