"""Each loss against the task loss."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from stitch_sweep.analysis.comparison.correlations import measure_correlations
from stitch_sweep.analysis.comparison.losses import loss_table
from stitch_sweep.analysis.comparison.task import against_task
from tests.support.comparisons import failed, table, trial


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
