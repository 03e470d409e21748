"""The table of cells and losses."""

from __future__ import annotations

import pytest

from stitch_sweep.analysis.comparison.hacking import hacking
from stitch_sweep.analysis.comparison.losses import is_task, loss_table
from stitch_sweep.analysis.comparison.task import against_task
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.measures import SIMILARITIES
from tests.support.comparisons import ALIKE, failed, table, trial


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
