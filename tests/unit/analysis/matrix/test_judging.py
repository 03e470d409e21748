"""Verdicts on one matrix."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from stitch_sweep.analysis.matrix.files import read_matrix
from stitch_sweep.analysis.matrix.judging import Correct, judge, judge_bare
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.order_parameters import regions
from stitch_sweep.analysis.matrix.uncertainty import (
    BINOMIAL,
    IMAGES,
)
from stitch_sweep.core.errors import InputError
from tests.support.matrices import (
    TRIANGLE,
    bare,
    planted,
    step,
)
from tests.support.paths import SHARED


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


def test_a_matrix_without_own_accuracies_is_judged_by_its_maximum():
    unknown = {"sender_accuracy": math.nan, "receiver_accuracy": math.nan}
    values = step(TRIANGLE)
    values.loc[-1] = 1.0  # the image's row is no part of the shape
    highest = float(values.drop(index=-1).max(axis=None))
    known = judge_bare(values, sender_accuracy=highest, receiver_accuracy=math.nan, test_images=500)
    found = judge_bare(values, **unknown, test_images=500)
    assert (found.label, found.best_accuracy, found.relative) == (known.label, highest, True)
    assert found.parameters == known.parameters
    assert found.headline == "triangle, relative to the matrix's maximum"
    assert f"the matrix's maximum, {highest:.2f}, counts as 1" in found.notes[0]
    assert found.intervals["triangle"].low < found.parameters.triangle
    assert found.parameters.triangle < found.intervals["triangle"].high
    flat = judge_bare(0 * values + 0.12, **unknown, test_images=None)
    assert flat.label == "unclear"
    assert "near chance" in flat.notes[0]
    # In a sweep, an unknown accuracy is a gap in the results.
    assert judge(bare(values, own=math.nan), chance=0.1).label == "unclear"


def test_receiver_free_columns_are_left_out_of_a_second_judgment():
    values = step(TRIANGLE)
    values[4] = 0.95  # the last column is the sender's alone
    right = planted(0, 25, 300)
    marked = replace(bare(values), receiver_free=frozenset({4}))
    found = judge(marked, chance=0.1, correct=Correct(right))
    plain = judge(bare(values), chance=0.1, correct=Correct(right))
    assert (found.parameters, found.intervals) == (plain.parameters, plain.intervals)
    assert plain.reduced is None
    kept = np.array([k % 5 != 4 for k in range(25)])
    inner = judge(
        bare(values.drop(columns=4)),
        chance=0.1,
        receiver_layers=5,
        correct=Correct(right[kept]),
    )
    assert found.reduced is not None
    assert found.reduced.parameters == inner.parameters
    assert found.reduced.intervals == inner.intervals
    assert found.reduced.parameters.triangle > found.parameters.triangle
    written = found.to_dict()
    assert written["receiver_free"] == [4]
    assert written["without_receiver_free"]["triangle"] == inner.parameters.triangle
    assert plain.to_dict()["without_receiver_free"] is None


def test_a_matrix_of_receiver_free_columns_alone_has_no_second_judgment():
    marked = replace(bare(step(TRIANGLE)[[4]]), receiver_free=frozenset({4}))
    assert judge(marked, chance=0.1, receiver_layers=5).reduced is None


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


def test_a_bare_matrix_can_be_a_control():
    given = {"sender_accuracy": 0.9, "receiver_accuracy": 0.9, "test_images": None}
    found = judge_bare(step(TRIANGLE), control="class_only", **given)
    assert found.headline == "control (class-only sender), shaped like a triangle"
    with pytest.raises(InputError, match="did you mean 'class_only'"):
        judge_bare(step(TRIANGLE), control="class_onl", **given)
