"""What a pair reaches beyond its logits-only control."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from stitch_sweep.analysis.ladder.points import ladder_points
from stitch_sweep.analysis.matrix.excess import judge_excess, subtract
from stitch_sweep.analysis.matrix.judging import Correct
from stitch_sweep.analysis.matrix.populations import judge_networks
from stitch_sweep.core.measures import BEYOND_LOGITS
from tests.support.matrices import DIAGONAL, FULL, TRIANGLE, SweepTables, bare, step

IMAGES = 500
LOW = {"lower": 0.5, "band": 0.5, "upper": 0.5}


def drawn(values: pd.DataFrame, seed: int) -> np.ndarray:
    """For every cell of a matrix, which images are right; the cells are independent."""
    random = np.random.default_rng(seed).random((values.size, IMAGES))
    return (random < values.to_numpy().ravel()[:, None]).astype(np.float32)


def measured(correct: np.ndarray, like: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(correct.mean(axis=1).reshape(like.shape), like.index, like.columns)


def test_region_means_are_differences_of_region_means():
    """L, D and U of the excess are those of the pair minus those of the control."""
    values = [
        measured(drawn(step(levels), k), step(LOW)) for k, levels in enumerate((TRIANGLE, LOW))
    ]
    found = judge_excess(bare(values[0]), bare(values[1]), None, None, chance=0.1)
    own = 0.9 - 0.1
    for region in ("lower", "band", "upper"):
        where = step({"lower": 0, "band": 1, "upper": 2}) == ["lower", "band", "upper"].index(
            region
        )
        means = [table.where(where).stack().mean() for table in values]
        assert getattr(found.parameters, region) == pytest.approx((means[0] - means[1]) / own)
    assert found.intervals == {}


@pytest.mark.parametrize(
    ("pair", "control", "label"),
    [
        (DIAGONAL, LOW | {"lower": 0.3, "upper": 0.3}, "diagonal"),
        (TRIANGLE, TRIANGLE, "none"),
        (TRIANGLE, LOW | {"upper": 0.3}, "triangle"),
        (FULL, LOW, "full"),
    ],
)
def test_its_label_is_that_of_what_is_left(pair, control, label):
    found = judge_excess(bare(step(pair)), bare(step(control)), None, None, chance=0.1)
    assert found.label == label
    assert found.matrix.value_name == BEYOND_LOGITS


def test_what_both_get_right_on_the_same_images_has_no_uncertainty():
    correct = drawn(step(TRIANGLE), 3)
    matrix = bare(measured(correct, step(TRIANGLE)))
    found = judge_excess(
        matrix, matrix, Correct(correct, correct[0]), Correct(correct, correct[0]), chance=0.1
    )
    low, high = found.cell_intervals
    assert (low == 0).all(axis=None)
    assert (high == 0).all(axis=None)
    assert found.intervals["triangle"].low == found.intervals["triangle"].high == 0


def test_intervals_of_cells_are_those_of_paired_differences():
    """The deviation of a mean of paired differences is that of the differences over sqrt(N)."""
    pair, control = drawn(step(DIAGONAL), 4), drawn(step(LOW), 5)
    found = judge_excess(
        bare(measured(pair, step(LOW))),
        bare(measured(control, step(LOW))),
        Correct(pair),
        Correct(control),
        chance=0.1,
    )
    low, high = (table.to_numpy().ravel() for table in found.cell_intervals)
    deviation = (pair - control).std(axis=1, ddof=1) / math.sqrt(IMAGES)
    np.testing.assert_allclose((high - low) / (2 * 1.96), deviation, rtol=0.1)
    np.testing.assert_allclose((high + low) / 2, (pair - control).mean(axis=1), atol=0.01)


def test_layers_that_the_control_lacks_have_no_excess():
    """The pair has the row of the image, and the control a layer fewer."""
    values = step(FULL)
    values.loc[-1] = 0.2
    pair = bare(values.sort_index())
    control = bare(step(LOW).drop(index=4))
    difference = subtract(pair, control).values
    assert difference.loc[[-1, 4]].isna().all(axis=None)
    assert np.allclose(difference.loc[[0, 1, 2, 3]], 0.4)


def test_rows_of_predictions_follow_their_layers():
    """The control's layers stand in another order, and one more is among them."""
    values = step(DIAGONAL)
    correct = drawn(values, 6)
    order = [3, 0, 1, 2, 4]
    rearranged = correct.reshape(5, 5, IMAGES)[order].reshape(25, IMAGES)
    control = bare(measured(correct, values).loc[order])
    pair = bare(measured(correct, values))
    found = judge_excess(pair, control, Correct(correct), Correct(rearranged), chance=0.1)
    assert (found.cell_intervals[0] == 0).all(axis=None)


def test_cells_below_the_control_are_counted():
    pair, control = step(LOW), step(LOW)
    pair.loc[0, 4] = 0.3
    corrects = [drawn(table, k) for k, table in enumerate((pair, control), 7)]
    values = [measured(correct, pair) for correct in corrects]
    found = judge_excess(*map(bare, values), *map(Correct, corrects), chance=0.1)
    assert any("below the logits-only control" in note for note in found.notes)
    again = judge_excess(*map(bare, values[:1] * 2), *map(Correct, corrects[:1] * 2), chance=0.1)
    assert not any("below" in note for note in again.notes)


def test_cells_of_which_either_did_not_converge_are_marked():
    pair, control = bare(step(FULL)), bare(step(LOW))
    for k, matrix in enumerate((pair, control)):
        matrix.converged.loc[:, :] = True
        matrix.converged.loc[k, 0] = False
    control.converged.loc[3, 3] = pd.NA
    found = subtract(pair, control)
    assert found.unconverged.stack().sum() == 2
    assert pd.isna(found.converged.loc[3, 3])


@pytest.fixture
def sweep() -> SweepTables:
    sweep = SweepTables()
    for name in "abc":
        sweep.network(name)
        sweep.network(f"{name}-logits-only", weights="logits_only")
    for sender, receiver in (("a", "b"), ("b", "c"), ("c", "a")):
        sweep.matrix(sender, receiver, step(DIAGONAL))
        control = LOW | {"lower": 0.3, "upper": 0.3}
        sweep.matrix(f"{sender}-logits-only", receiver, step(control), sender_kind="logits_only")
    return sweep


def test_a_sweep_finds_the_control_of_every_pair(sweep):
    found = sweep.judge()
    for (sender, _), verdict in found.items():
        if sender.endswith("-logits-only"):
            assert verdict.headline.startswith("control (logits-only sender)")
            assert verdict.excess is None
            continue
        assert verdict.excess.label == "diagonal"
        assert verdict.excess.parameters.band == pytest.approx(0.5)
        content = verdict.to_dict()["beyond_logits"]
        assert (content["shape"], content["band"]) == ("diagonal", pytest.approx(0.5))
        assert content["intervals"]["diagonal"]["method"] == "paired bootstrap over test images"


def test_the_ladder_has_a_series_of_its_own_for_it(sweep):
    judged = [v for v in sweep.judge().values() if v.control is None]
    points = ladder_points(
        [*judged, *(v.excess for v in judged)], pd.DataFrame(sweep.networks), "depth"
    )
    assert points.groupby("series").size().to_dict() == {"": 3, "beyond logits-only": 3}


def test_networks_together_are_judged_as_each_pair_is(sweep):
    excesses = [v.excess for v in sweep.judge().values() if v.control is None]
    found = judge_networks(
        [v.matrix for v in excesses], chance=0.1, sender="a, b, c", receiver="a, b, c"
    )
    for region in ("lower", "band", "upper"):
        each = [getattr(v.parameters, region) for v in excesses]
        assert getattr(found.parameters, region) == pytest.approx(np.mean(each))
