"""The table that comparisons start from: a row per cell and loss."""

from __future__ import annotations

import math
import re

import pandas as pd

from stitch_sweep.analysis.results import CELL, FACTOR, PAIR, Mode, best_trials, factor_columns
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.measures import SIMILARITIES

_TASK_LABEL = re.compile(r"([0-9.e+-]+\*)?task")


def identity_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of crossed factors without the loss, which has its own column."""
    return [name for name in factor_columns(table) if not _is_loss_path(name.removeprefix(FACTOR))]


def is_task(label: str) -> bool:
    """Whether a loss's label is the task loss alone, with any weight."""
    return _TASK_LABEL.fullmatch(label) is not None


def loss_table(
    results: pd.DataFrame, *, metric: str = "val_accuracy", mode: Mode = "max"
) -> pd.DataFrame:
    """Tabulate accuracy and every measure per cell and loss, of the best trial.

    The best trial is chosen on validation images. If the loss was searched rather than crossed, the
    table contains the best trial of each loss that a study tried; the losses may then have had different
    numbers of trials.

    Args:
        results: a row per trial, as `load_results` returns it.
        metric: the column that chooses trials.
        mode: whether its "max" or its "min" is best.

    Returns:
        A row per sender, receiver, combination of factors other than the loss, sender layer, receiver
        layer, repeat and `loss`: `trial`, `status`, `converged`, `sender_accuracy`,
        `receiver_accuracy`, `accuracy_calibrated` (in [0, 1]; the test accuracy behind the map that
        restores what the loss is blind to, on which losses are compared), `accuracy_raw`, and the
        columns of `measures.SIMILARITIES` that `results` has. Values of failed cells are NaN.

    Raises:
        InputError: there is no column `loss`, or the metric can't choose.

    Example:
        >>> table = loss_table(load_results(folder))  # doctest: +SKIP
        >>> table.pivot_table("val_cka", "sender_layer", "receiver_layer")  # doctest: +SKIP
    """
    if "loss" not in results.columns:
        raise InputError("missing column: loss; is it a sweep's results.parquet?")
    best = best_trials(results.assign(**{f"{FACTOR}loss": results["loss"]}), metric, mode)
    raw = best["test_accuracy"]
    # Older tables have neither column. In them, a loss that needs calibration has no calibrated value.
    best["accuracy_raw"] = best["accuracy_raw"].fillna(raw) if "accuracy_raw" in best else raw
    if "accuracy_calibrated" not in best:
        best["accuracy_calibrated"] = best["accuracy_raw"]
    names = identity_columns(best)
    measures = [name for name in SIMILARITIES if name in best]
    best[measures] = best[measures].astype("float64")
    failed = best["status"] != "finished"
    values = ["accuracy_calibrated", "accuracy_raw", *measures]
    best.loc[failed, values] = math.nan
    columns = [*PAIR, *names, *CELL, "repeat", "loss", "trial", "status", "converged"]
    columns += ["sender_accuracy", "receiver_accuracy", *values]
    by = [*PAIR, *names, "loss", *CELL, "repeat"]
    return best[columns].sort_values(by, kind="stable").reset_index(drop=True)


def cell_means(
    table: pd.DataFrame, matrix: list[str], loss: str, quantities: list[str]
) -> pd.DataFrame:
    """Average the defined values of each cell over its repeats.

    The row of the image is skipped: it is a control, not a layer of the sender.

    Args:
        table: a row per cell and repeat, such as the result of `loss_table`.
        matrix: the columns that identify a matrix.
        loss: the column of the loss.
        quantities: the numeric columns to average.
    """
    keys = [*matrix, loss, *CELL]
    return (
        table[table["sender_layer"] >= 0]
        .groupby(keys, dropna=False)[quantities]
        .mean()
        .reset_index()
    )


def _is_loss_path(path: str) -> bool:
    return path == "loss" or path.startswith("loss.")
