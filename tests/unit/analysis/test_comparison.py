"""Losses, measures and representations compared: toys with known answers, and other people's code."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from stitch_sweep.analysis.comparison.agreement import agreement, error_consistency
from stitch_sweep.analysis.comparison.correlations import measure_correlations, spearman
from stitch_sweep.analysis.comparison.hacking import hacking
from stitch_sweep.analysis.comparison.losses import is_task, loss_table
from stitch_sweep.analysis.comparison.regional import regional
from stitch_sweep.analysis.comparison.task import against_task
from stitch_sweep.analysis.matrix.order import regions
from stitch_sweep.analysis.measures import SIMILARITIES
from stitch_sweep.analysis.results import check_results
from stitch_sweep.core.errors import InputError

ALIKE = {
    "val_mse": 0.2, "val_relative_mse": 0.4, "val_cosine": 0.9, "val_correlation": 0.9,
    "val_cca": 0.8, "val_svcca": 0.8, "val_pwcca": 0.7, "val_cka": 0.95, "val_procrustes": 0.1,
}  # fmt: skip


def trial(i: int = 0, j: int = 0, loss: str = "task", accuracy: float = 0.8, **other: Any) -> dict:
    row = {
        "trial": f"{i}-{j}-{loss}-{other.get('number', 0)}-{other.get('repeat', 0)}",
        "sender": "a",
        "receiver": "b",
        "sender_layer": i,
        "receiver_layer": j,
        "repeat": 0,
        "number": 0,
        "loss": loss,
        "factor.loss": loss,
        "status": "finished",
        "val_accuracy": accuracy,
        "test_accuracy": accuracy,
        "accuracy_raw": accuracy,
        "accuracy_calibrated": accuracy,
        "penalty": 0.9 - accuracy,
        "converged": True,
        "sender_accuracy": 0.8,
        "receiver_accuracy": 0.9,
        **ALIKE,
    }
    return row | other


def failed(i: int = 0, j: int = 0, loss: str = "task", **other: Any) -> dict:
    empty = dict.fromkeys([*ALIKE, "accuracy_raw", "accuracy_calibrated", "val_accuracy"])
    return trial(i, j, loss, math.nan, status="failed", converged=None, **empty, **other)


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return check_results(pd.DataFrame(list(rows)))


# A row per cell and loss


def test_a_cell_has_a_row_per_loss_chosen_on_validation_images():
    found = loss_table(
        table(
            trial(1, 2, "mse", 0.5, accuracy_calibrated=0.6),
            trial(1, 2, "task", 0.9, number=0, val_accuracy=0.7),
            trial(1, 2, "task", 0.4, number=1, val_accuracy=0.8),
            failed(0, 2, "task"),
        )
    )
    assert found[["sender_layer", "loss"]].to_numpy().tolist() == [
        [1, "mse"],
        [0, "task"],
        [1, "task"],
    ]
    assert found["accuracy_raw"].tolist()[::2] == [0.5, 0.4]
    assert found["accuracy_calibrated"].tolist()[::2] == [0.6, 0.4]
    assert found.loc[1, [*SIMILARITIES, "accuracy_calibrated"]].isna().all()
    assert "factor.loss" not in found


def test_a_searched_loss_gives_a_row_per_loss_that_was_tried():
    rows = [trial(loss=loss, accuracy=x, number=n) for n, (loss, x) in
            enumerate([("task", 0.7), ("mse", 0.3), ("task", 0.8), ("mse", 0.2)])]  # fmt: skip
    found = loss_table(table(*({k: v for k, v in r.items() if k != "factor.loss"} for r in rows)))
    assert dict(zip(found["loss"], found["accuracy_calibrated"], strict=True)) == {
        "task": 0.8, "mse": 0.3,
    }  # fmt: skip


def test_an_older_table_lacks_columns():
    old = table(trial()).drop(columns=["accuracy_raw", "accuracy_calibrated", *list(ALIKE)[1:]])
    found = loss_table(old)
    assert found["accuracy_calibrated"].tolist() == [0.8]
    assert [name for name in SIMILARITIES if name in found] == ["val_mse"]
    with pytest.raises(InputError, match="missing column: loss"):
        loss_table(old.drop(columns="loss"))
    with pytest.raises(InputError, match="val_relative_mse"):
        hacking(old, chance=0.1)


def test_other_factors_stay_apart():
    rows = [trial(loss=loss, accuracy=x, **{"factor.stitch": s}) for loss, s, x in
            [("task", "paper", 0.5), ("task", "lowrank", 0.6), ("mse", "paper", 0.4)]]  # fmt: skip
    found = loss_table(table(*rows))
    assert found["factor.stitch"].tolist() == ["lowrank", "paper", "paper"]
    assert against_task(found)["factor.stitch"].tolist() == ["paper"]


@pytest.mark.parametrize(
    ("label", "task"),
    [("task", True), ("2*task", True), ("1e-05*task", True), ("soft_task", False),
     ("task+mse", False), ("0.5*mse+task", False), ("mse", False)],
)  # fmt: skip
def test_the_task_loss_is_known_by_its_label(label, task):
    assert is_task(label) is task


# Against the task


def test_a_loss_is_compared_where_both_have_finished():
    tasks = [0.9, 0.8, 0.7, 0.6]
    others = [0.7, 0.72, 0.69, 0.2]
    cells = [(0, 0), (0, 1), (1, 0), (1, 1)]
    rows = [trial(*c, "task", x) for c, x in zip(cells, tasks, strict=True)]
    rows += [trial(*c, "mse", x) for c, x in zip(cells, others, strict=True)]
    rows += [trial(2, 0, "mse", 0.1), failed(2, 0), failed(2, 1, "mse"), trial(2, 1)]
    found = against_task(loss_table(table(*rows)))
    assert len(found) == 1
    row = found.iloc[0]
    differences = np.array(others) - tasks
    assert row["loss"] == "mse"
    assert row["cells"] == 4
    assert row["difference"] == pytest.approx(differences.mean())
    assert row["standard_error"] == pytest.approx(differences.std(ddof=1) / 2)
    assert (row["lowest"], row["highest"]) == pytest.approx((differences.min(), differences.max()))
    assert row["behind"] == 0.75, "0.69 is only 0.01 below 0.7"
    assert row["spearman"] == pytest.approx(spearmanr(tasks, others).statistic)


def test_repeats_of_a_cell_are_one_observation():
    rows = [trial(0, j, loss, x + 0.1 * r, repeat=r) for j, (loss, x), r in
            itertools.product(range(3), [("task", 0.5), ("mse", 0.4)], range(2))]  # fmt: skip
    row = against_task(loss_table(table(*rows))).iloc[0]
    assert row["cells"] == 3
    assert (row["task_accuracy"], row["accuracy"]) == pytest.approx((0.55, 0.45))
    assert math.isnan(row["spearman"]), "all cells are alike"


def test_the_image_is_no_cell_of_the_pair():
    rows = [trial(i, j, loss, 0.1 if i < 0 else 0.8) for i in (-1, 0, 1) for j in (0, 1)
            for loss in ("task", "mse")]  # fmt: skip
    found = loss_table(table(*rows))
    row = against_task(found).iloc[0]
    assert (row["cells"], row["accuracy"], row["task_accuracy"]) == (4, 0.8, 0.8)
    assert set(measure_correlations(found)["n"]) == {4}
    assert against_task(found[found["sender_layer"] < 0]).empty


def test_without_a_task_trained_stitch_there_is_nothing_to_compare():
    found = against_task(loss_table(table(trial(loss="mse"), trial(loss="cka"))))
    assert found.empty
    assert "spearman" in found


# Regions


def representations(size: int, value: Any) -> pd.DataFrame:
    rows = [
        {"sender": "a", "receiver": "b", "sender_layer": i, "receiver_layer": j, "repeat": repeat,
         "similarity_loss": "mse", "ev": value(i, j), "es": 0.0, "sv": 1.0 + repeat}
        for i in range(-1, size) for j in range(size) for repeat in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_regions_are_averaged_apart():
    """Below, in and above the diagonal of a 4 x 4 matrix; the image belongs to no region."""
    found = regional(
        representations(4, lambda i, j: 10.0 * (i - j)),
        regions(pd.DataFrame(0.0, index=range(-1, 4), columns=range(4))),
    )
    ev = found[found["quantity"] == "ev"].set_index("region")
    below = [10.0 * (i - j) for i in range(4) for j in range(4) if i > j]
    assert ev["n"].to_dict() == {"lower": 6, "band": 4, "upper": 6}
    assert ev.loc["lower", "mean"] == pytest.approx(np.mean(below))
    assert ev.loc["lower", "standard_error"] == pytest.approx(np.std(below, ddof=1) / math.sqrt(6))
    assert ev.loc["band", "mean"] == 0
    assert ev.loc["upper", "mean"] == pytest.approx(-np.mean(below))
    sv = found[found["quantity"] == "sv"].set_index("region")
    assert set(sv["mean"]) == {1.5}
    assert set(sv["standard_error"]) == {0.0}
    assert found["quantity"].unique().tolist() == ["ev", "es", "sv"]
    assert found["region"].tolist()[:3] == ["lower", "band", "upper"]


def test_regions_of_one_pair_are_not_those_of_another():
    square = representations(2, lambda i, j: i - j)
    of = {("a", "b"): regions(pd.DataFrame(0.0, index=range(2), columns=range(2)))}
    assert len(regional(square, of)) == 9
    with pytest.raises(InputError, match="a -> c"):
        regional(square.assign(receiver="c"), of)


def test_measures_have_regions_too():
    rows = [trial(i, j, loss) for i in range(2) for j in range(2) for loss in ("task", "mse")]
    where = regions(pd.DataFrame(0.0, index=range(2), columns=range(2)))
    found = regional(loss_table(table(*rows)), where, ["val_cka"])
    assert found[["loss", "region", "n"]].to_numpy().tolist() == [
        [loss, region, n] for loss in ("mse", "task")
        for region, n in (("lower", 1), ("band", 2), ("upper", 1))
    ]  # fmt: skip
    assert found["standard_error"].isna().tolist() == [True, False, True] * 2
    with pytest.raises(InputError, match="val_cka"):
        regional(loss_table(table(*rows)), where, ["val_ckaa"])


# Rank correlations


def test_rank_correlations_are_scipys():
    numbers = np.random.default_rng(0)
    cells = list(itertools.product(range(3), range(4)))
    values = {name: numbers.uniform(size=len(cells)) for name in (*ALIKE, "accuracy_calibrated")}
    values["val_cca"][3] = math.nan
    values["val_pwcca"][:] = 0.5
    rows = [
        trial(*cell, **{name: x[k] for name, x in values.items()}) for k, cell in enumerate(cells)
    ]
    found = measure_correlations(loss_table(table(*rows))).set_index(["first", "second"])
    assert len(found) == 10 * 9 / 2
    signs = {name: measure.sign for name, measure in SIMILARITIES.items()}
    for (first, second), row in found.iterrows():
        x, y = (signs.get(name, 1) * values[name] for name in (first, second))
        known = np.isfinite(x) & np.isfinite(y)
        assert row["n"] == known.sum()
        if "val_pwcca" in (first, second):
            assert math.isnan(row["spearman"])
        else:
            assert row["spearman"] == pytest.approx(spearmanr(x[known], y[known]).statistic)


def test_a_distance_and_a_similarity_that_agree_correlate_with_1():
    rows = [trial(i, val_mse=x, val_cka=1 - x**2) for i, x in enumerate([0.1, 0.5, 0.7])]
    found = measure_correlations(loss_table(table(*rows)), ["val_mse", "val_cka"])
    assert found[["spearman", "n"]].to_numpy().tolist() == [[1, 3]]
    with pytest.raises(InputError, match="val_cka"):
        measure_correlations(loss_table(table(*rows)), ["val_mse", "val_ck"])


def test_two_cells_have_no_rank_correlation():
    assert math.isnan(spearman(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.0, 3.0])))


# Hacking


def test_hacking_is_to_perform_through_another_representation():
    found = hacking(
        table(
            trial(0, 0, accuracy=0.85, val_relative_mse=1.5),  # well and far
            trial(0, 1, accuracy=0.85, val_relative_mse=0.2),  # well and near
            trial(1, 0, accuracy=0.30, val_relative_mse=3.0),  # far, but not well
            trial(1, 1, accuracy=0.85, val_relative_mse=None),
            trial(0, 0, "mse", accuracy=0.60, val_relative_mse=0.3),
            failed(2, 2),
        ),
        chance=0.1,
    )
    task = found[found["loss"] == "task"].set_index(["sender_layer", "receiver_layer"])
    # The receiver's 0.9 is the better of the two.
    assert task["rescaled"].to_list() == pytest.approx([0.75 / 0.8, 0.75 / 0.8, 0.25, 0.75 / 0.8])
    assert task["hacking"].tolist()[:3] == [True, False, False]
    assert pd.isna(task.loc[(1, 1), "hacking"])
    assert task["well"].tolist() == [True, True, False, True]
    assert (task.loc[(0, 0), "nearest"], task.loc[(0, 0), "nearest_loss"]) == (0.3, "mse")
    assert task.loc[(0, 1), "nearest_loss"] == "task"
    assert len(found) == 5


def test_where_distance_counts_backwards():
    """CKA says near where it is large."""
    rows = [trial(j=0, val_cka=0.1), trial(j=1, val_cka=0.9), trial(j=0, loss="mse", val_cka=0.7)]
    found = hacking(table(*rows), chance=0.1, measure="val_cka", far=0.5, well=0.5)
    assert found["hacking"].tolist() == [False, True, False]
    assert found["nearest"].tolist() == [0.7, 0.7, 0.9]
    with pytest.raises(InputError, match="val_cka"):
        hacking(table(trial()), chance=0.1, measure="val_cak")


def test_a_distance_in_front_of_the_calibration_is_no_distance():
    """Correlation leaves scale and shift to chance: its raw error of 5 means nothing."""
    rows = [
        trial(0, 0, "correlation", trial="c", accuracy_raw=0.1, val_relative_mse=5.0),
        trial(0, 1, "correlation", trial="d", val_relative_mse=5.0),
        trial(0, 0, "mse", trial="m", val_relative_mse=2.0),
    ]
    found = hacking(table(*rows), chance=0.1, well=0.5).set_index("trial")
    assert found["far"].isna().to_dict() == {"c": True, "d": True, "m": False}
    assert found.loc["c", "nearest_loss"] == "mse"
    behind = pd.DataFrame(
        {"similarity_trial": ["c", "d"], "es": [0.2, 0.9], "es_relative": [0.4, 1.8]}
    )
    found = hacking(table(*rows), chance=0.1, well=0.5, representations=behind).set_index("trial")
    assert found["val_relative_mse"].to_dict() == {"c": 0.4, "d": 1.8, "m": 2.0}
    assert found["hacking"].to_dict() == {"c": False, "d": True, "m": True}


def test_no_cell_performs_well_where_the_networks_do_not():
    rows = [trial(sender_accuracy=0.12, receiver_accuracy=0.15, val_relative_mse=2.0)]
    found = hacking(table(*rows), chance=0.1)
    assert found["rescaled"].isna().all()
    assert found["hacking"].isna().all()
    rows = [trial(sender_accuracy=None, receiver_accuracy=0.8, val_relative_mse=2.0)]
    assert hacking(table(*rows), chance=0.1)["hacking"].tolist() == [True]


# Agreement


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_error_consistency_is_cohens_kappa(pairs):
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    found = error_consistency(first, second)
    if first.all() == second.all() and first.any() == second.any() and first.all() == first.any():
        assert math.isnan(found), "both always right, or both always wrong"
    else:
        assert found == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
        assert found == error_consistency(second, first) <= 1


def test_error_consistency_of_things_that_do_not_fit():
    for shapes in ((2, 3), (0, 0)):
        with pytest.raises(ValueError, match="both must be"):
            error_consistency(*(np.zeros(n, dtype=bool) for n in shapes))


LABELS = pd.DataFrame({"label": [0, 1, 2, 0, 1, 2]})


def networks(**predictions: list[int] | None) -> pd.DataFrame:
    return pd.DataFrame({"network": list(predictions), "predictions": list(predictions.values())})


def predictions(**rows: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"trial": list(rows), "predictions": [np.array(p) for p in rows.values()]})


def test_agreement_with_sender_and_receiver():
    sender, receiver = [0, 1, 2, 0, 2, 0], [0, 1, 2, 1, 1, 1]
    stitched = [0, 1, 2, 0, 0, 0]
    found = agreement(
        table(trial(trial="t"), failed(1, trial="f")),
        predictions(t=stitched),
        LABELS,
        networks(a=sender, b=receiver),
    )
    assert found["trial"].tolist() == ["t"]
    row = found.iloc[0]
    right = LABELS["label"].to_numpy()
    for name, one, other in (
        ("sender", stitched, sender), ("receiver", stitched, receiver), ("own", sender, receiver),
    ):  # fmt: skip
        assert row[f"agreement_{name}"] == np.mean(np.array(one) == np.array(other))
        kappa = cohen_kappa_score(np.array(one) == right, np.array(other) == right)
        assert row[f"kappa_{name}"] == pytest.approx(kappa)
    assert row["kappa_sender"] == 1, "other classes, but the same images wrong"
    assert row["agreement_sender"] == 5 / 6
    assert row["images"] == 6


def test_a_network_without_predictions_leaves_its_columns_empty():
    found = agreement(
        table(trial(trial="t")), predictions(t=[0] * 6), LABELS, networks(a=None, b=[0] * 6)
    ).iloc[0]
    assert math.isnan(found["agreement_sender"])
    assert math.isnan(found["kappa_own"])
    assert found["agreement_receiver"] == found["kappa_receiver"] == 1


def test_two_that_are_always_right_have_no_error_consistency():
    right = LABELS["label"].tolist()
    found = agreement(
        table(trial(trial="t")), predictions(t=right), LABELS, networks(a=right, b=right)
    ).iloc[0]
    assert found["agreement_sender"] == 1
    assert math.isnan(found["kappa_sender"])


def test_predictions_of_other_images_are_named():
    results = table(trial(trial="t"))
    with pytest.raises(InputError, match=r"trial t: .* 5 images, .* 6"):
        agreement(results, predictions(t=[0] * 5), LABELS, networks(a=None))
    with pytest.raises(InputError, match="network a"):
        agreement(results, predictions(t=[0] * 6), LABELS, networks(a=[0] * 7))
    with pytest.raises(InputError, match="labels: missing columns: label"):
        agreement(results, predictions(t=[0] * 6), LABELS[[]], networks(a=None))
