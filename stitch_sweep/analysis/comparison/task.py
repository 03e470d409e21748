"""Compare stitches that were trained for a loss with those trained for the task."""

from __future__ import annotations

import math

import pandas as pd

from stitch_sweep.analysis.comparison.correlations import spearman
from stitch_sweep.analysis.comparison.losses import cell_means, identity_columns, is_task
from stitch_sweep.analysis.results import CELL, PAIR

BEHIND = 0.05
"""How far below the task loss, in calibrated accuracy, a cell must be to count as behind."""


def against_task(table: pd.DataFrame, *, behind: float = BEHIND) -> pd.DataFrame:
    """Compare each loss with the task loss, matrix by matrix.

    Args:
        table: the result of `loss_table`; repeats of a cell are averaged first.
        behind: a cell counts as `behind` when the loss's calibrated accuracy is lower than the task
            loss's by more than this.

    Returns:
        A row per sender, receiver, factors and loss other than the task's, over the `cells` in which
        both have finished: mean calibrated accuracies `accuracy` and `task_accuracy`, their `difference`
        and its `standard_error` over cells (an underestimate, since cells share networks), `lowest`
        and `highest` difference of a cell, the share of cells `behind`, and `spearman`, the rank
        correlation of the two accuracies over cells. It is NaN under three cells, or where one
        accuracy is constant. If the sweep has several weights of the task loss, the first label in
        alphabetical order is the reference.
    """
    names = identity_columns(table)
    means = cell_means(table, [*PAIR, *names], "loss", ["accuracy_calibrated"])
    rows = []
    for key, matrix in means.groupby([*PAIR, *names], dropna=False):
        by_loss = {str(label): cells for label, cells in matrix.groupby("loss")}
        task = next((by_loss[label] for label in sorted(by_loss) if is_task(label)), None)
        if task is None:
            continue
        for label, cells in by_loss.items():
            if is_task(label):
                continue
            shared_cells = cells.merge(task, on=CELL, suffixes=("", "_task")).dropna(
                subset=["accuracy_calibrated", "accuracy_calibrated_task"]
            )
            accuracy, task_accuracy = (
                shared_cells["accuracy_calibrated"],
                shared_cells["accuracy_calibrated_task"],
            )
            difference = accuracy - task_accuracy
            rows.append(
                {
                    **dict(zip([*PAIR, *names], key, strict=True)),
                    "loss": label,
                    "cells": len(shared_cells),
                    "accuracy": accuracy.mean(),
                    "task_accuracy": task_accuracy.mean(),
                    "difference": difference.mean(),
                    "standard_error": difference.sem(),
                    "lowest": difference.min(),
                    "highest": difference.max(),
                    "behind": (difference < -behind).mean() if len(shared_cells) else math.nan,
                    "spearman": spearman(accuracy.to_numpy(), task_accuracy.to_numpy()),
                }
            )
    columns = ["cells", "accuracy", "task_accuracy", "difference", "standard_error"]
    columns = [*PAIR, *names, "loss", *columns, "lowest", "highest", "behind", "spearman"]
    return pd.DataFrame(rows, columns=columns)
