"""Controls and the pairs that they explain."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from stitch_sweep.analysis.matrix.controls import controls_of
from stitch_sweep.analysis.matrix.judging import judge
from stitch_sweep.analysis.matrix.label_thresholds import LABELS
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.verdict import CONTROL_TITLES, Verdict
from tests.support.matrices import (
    DIAGONAL,
    FULL,
    NOTHING,
    TRIANGLE,
    SweepTables,
    planned_cells,
    step,
)


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
    sweep = SweepTables()
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
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE), **{"factor.loss": "task"})
    sweep.matrix(sender, receiver, step(levels), **{"factor.loss": "task", **CLASS_ONLY, **other})
    return sweep.judge()["a", "b"]


def test_a_triangle_that_class_information_makes_too_is_called_that():
    found = with_control(TRIANGLE)
    assert found.label == "triangle"
    assert found.explained_by == ["class_only"]
    assert any(
        "a-class-only → b (class-only sender) has the same shape" in note
        and "class information alone suffices" in note
        and "knows the test labels" in note
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
    sweep = SweepTables()
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
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE), converged=False)
    sweep.matrix("a-class-only", "b", step(FULL), **CLASS_ONLY)
    found = sweep.judge()["a", "b"]
    assert (found.label, found.withheld, found.explained_by) == ("unclear", "unconverged", [])
    assert any(LITTLE in note for note in found.notes)


def test_an_unclear_pair_is_told_of_an_image_that_is_as_high_as_the_band():
    sweep = SweepTables()
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
    sweep = SweepTables()
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
    sweep = SweepTables()
    values = step(TRIANGLE).reindex(range(-1, 5))
    values.loc[-1] = level
    sweep.matrix("a", "b", values)
    assert sweep.judge()["a", "b"].explained_by == expected


def test_a_control_with_gaps_explains_nothing():
    sweep = SweepTables()
    sweep.matrix("a", "b", step(TRIANGLE))
    sweep.matrix("a-class-only", "b", step(FULL).loc[1:2, [1]], sender_kind="class_only")
    planned = planned_cells("a-class-only", "b", range(5))
    assert sweep.judge(planned=planned)["a", "b"].explained_by == []
    # Two cells are no half of the pair's regions either, whatever was planned.
    assert sweep.judge()["a", "b"].explained_by == []


def test_the_image_explains_nothing_by_less_than_half_of_its_row():
    sweep = SweepTables()
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


def test_a_control_is_not_explained_by_another():
    sweep = SweepTables()
    for name in ("a-class-only", "a-untrained"):
        kind = "class_only" if "class" in name else "random"
        sweep.matrix(name, "b", step(TRIANGLE), sender_kind=kind)
    assert all(v.explained_by == [] for v in sweep.judge().values())
