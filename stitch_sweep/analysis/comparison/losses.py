"""Whether stitches that were trained for different things tell the same story.

Everything here is a table from tables: a row per cell and loss, then what can be said of it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pandas.api import types

from stitch_sweep.analysis.matrix.order import rescaled
from stitch_sweep.analysis.results import CELL, FACTOR, PAIR, Mode, best_trials, factor_columns
from stitch_sweep.core.errors import InputError, nearest

LIKENESS = {
    "val_mse": -1,
    "val_relative_mse": -1,
    "val_cosine": 1,
    "val_correlation": 1,
    "val_cca": 1,
    "val_svcca": 1,
    "val_pwcca": 1,
    "val_cka": 1,
    "val_procrustes": -1,
}
"""Measures of stitched against expected representation: 1 where more is more alike, -1 where less is."""

DIFFERENCES = ("ev", "es", "sv", "ev_relative", "es_relative", "sv_relative")
"""Columns of `representations.parquet` that `regional` averages."""

WELL = 0.9
"""Rescaled calibrated accuracy from which a cell counts as performing well."""
FAR = 1.0
"""Relative mean squared error from which a representation counts as far from the expected one: it is
then no nearer than a constant, the expected representation's own mean."""
BEHIND = 0.05
"""By so much calibrated accuracy a loss has to stay below the task loss for a cell to be counted."""

# These see scale and shift, which some losses leave to chance.
_OF_CALIBRATED = {"val_mse": "es", "val_relative_mse": "es_relative"}
_TASK = re.compile(r"([0-9.e+-]+\*)?task")
_LEAST_CELLS = 3


def identity_columns(table: pd.DataFrame) -> list[str]:
    """The crossed factors of a table without the loss, which has a column of its own."""
    return [name for name in factor_columns(table) if not _is_loss(name.removeprefix(FACTOR))]


def is_task(label: str) -> bool:
    """Whether a loss's label is the task loss alone, whatever its weight."""
    return _TASK.fullmatch(label) is not None


def loss_table(
    results: pd.DataFrame, *, metric: str = "val_accuracy", mode: Mode = "max"
) -> pd.DataFrame:
    """Accuracy and every measure per cell and loss: the best trial, chosen on validation images.

    Where the loss was searched rather than crossed, the best trial of each loss that a study tried is
    taken; the losses may then have had different numbers of trials.

    Args:
        results: a row per trial, as `load_results` returns it.
        metric: the column that chooses trials.
        mode: whether "max" or "min" of it is best.

    Returns:
        A row per sender, receiver, combination of factors other than the loss, sender layer, receiver
        layer, repeat and `loss`: `trial`, `status`, `converged`, `sender_accuracy`,
        `receiver_accuracy`, `accuracy_calibrated` (in [0, 1]; the test accuracy behind the map that
        restores what the loss is blind to, on which losses are compared), `accuracy_raw`, and the
        columns of `LIKENESS` that `results` has. Values of failed cells are NaN.

    Raises:
        InputError: there is no column `loss`, or the metric can't choose.

    Example:
        >>> table = loss_table(load_results(folder))  # doctest: +SKIP
        >>> table.pivot_table("val_cka", "sender_layer", "receiver_layer")  # doctest: +SKIP
    """
    if "loss" not in results.columns:
        raise InputError("missing column: loss; is it a sweep's results.parquet?")
    losses = f"{FACTOR}loss"
    best = best_trials(results.assign(**{losses: results["loss"]}), metric, mode)
    raw = best["test_accuracy"]
    # Older tables have neither column; there a loss that needs calibration has none.
    best["accuracy_raw"] = best["accuracy_raw"].fillna(raw) if "accuracy_raw" in best else raw
    if "accuracy_calibrated" not in best:
        best["accuracy_calibrated"] = best["accuracy_raw"]
    names = identity_columns(best)
    measures = [name for name in LIKENESS if name in best]
    best[measures] = best[measures].astype("float64")
    failed = best["status"] != "finished"
    values = ["accuracy_calibrated", "accuracy_raw", *measures]
    best.loc[failed, values] = math.nan
    columns = [*PAIR, *names, *CELL, "repeat", "loss", "trial", "status", "converged"]
    columns += ["sender_accuracy", "receiver_accuracy", *values]
    by = [*PAIR, *names, "loss", *CELL, "repeat"]
    return best[columns].sort_values(by, kind="stable").reset_index(drop=True)


def against_task(table: pd.DataFrame, *, behind: float = BEHIND) -> pd.DataFrame:
    """For every matrix, whether stitches trained for a loss and for the task tell the same story.

    Args:
        table: what `loss_table` returned; repeats of a cell are averaged first.
        behind: a cell counts as `behind` when the loss's calibrated accuracy is lower than the task
            loss's by more than this.

    Returns:
        A row per sender, receiver, factors and loss other than the task's, over the `cells` in which
        both have finished: mean calibrated accuracies `accuracy` and `task_accuracy`, their `difference`
        and its `standard_error` over cells (cells share networks, so it is an underestimate), `lowest`
        and `highest` difference of a cell, the share of cells `behind`, and `spearman`, the rank
        correlation of the two accuracies over cells: do they order the cells alike? NaN under three
        cells, or where one of them is constant. Where several weights of the task loss were run,
        the first label is taken.
    """
    names = identity_columns(table)
    means = _cell_means(table, [*PAIR, *names], "loss", ["accuracy_calibrated"])
    rows = []
    for key, matrix in means.groupby([*PAIR, *names], dropna=False):
        by_loss = {str(label): cells for label, cells in matrix.groupby("loss")}
        task = next((by_loss[label] for label in sorted(by_loss) if is_task(label)), None)
        if task is None:
            continue
        for label, other in by_loss.items():
            if is_task(label):
                continue
            both = other.merge(task, on=CELL, suffixes=("", "_task")).dropna(
                subset=["accuracy_calibrated", "accuracy_calibrated_task"]
            )
            mine, theirs = both["accuracy_calibrated"], both["accuracy_calibrated_task"]
            difference = mine - theirs
            rows.append(
                {
                    **dict(zip([*PAIR, *names], key, strict=True)),
                    "loss": label,
                    "cells": len(both),
                    "accuracy": mine.mean(),
                    "task_accuracy": theirs.mean(),
                    "difference": difference.mean(),
                    "standard_error": difference.sem(),
                    "lowest": difference.min(),
                    "highest": difference.max(),
                    "behind": (difference < -behind).mean() if len(both) else math.nan,
                    "spearman": spearman(mine.to_numpy(), theirs.to_numpy()),
                }
            )
    columns = ["cells", "accuracy", "task_accuracy", "difference", "standard_error"]
    columns = [*PAIR, *names, "loss", *columns, "lowest", "highest", "behind", "spearman"]
    return pd.DataFrame(rows, columns=columns)


def regional(
    table: pd.DataFrame,
    regions: pd.DataFrame | Mapping[tuple[str, str], pd.DataFrame],
    quantities: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Means below, in and above the band of equal depth, to see when similarity is small.

    Args:
        table: `representations.parquet` as `measure` wrote it, or what `loss_table` returned.
        regions: by sender layer (rows) and receiver layer (columns), "lower", "band" or "upper", missing
            where a cell belongs to none, as `analysis.order.regions` gives them; one table for all
            pairs, or one per (sender, receiver).
        quantities: numeric columns of `table`; `DIFFERENCES` where it has them, else the measures.

    Returns:
        A row per sender, receiver, factors, loss (column `similarity_loss` or `loss`, whichever `table`
        has), `quantity` and `region`: `n` cells, their `mean`, and `standard_error` = standard deviation
        / sqrt(n), NaN for one cell. Repeats of a cell are averaged first. Cells of a matrix share two
        networks, so the standard error describes their spread and is no error of a generalisation to
        other networks.

    Raises:
        InputError: a quantity is no numeric column, or there are no regions for a pair.
    """
    found = [q for q in DIFFERENCES if q in table] or [q for q in LIKENESS if q in table]
    wanted = list(found if quantities is None else quantities)
    numeric = [str(name) for name in table.columns if types.is_numeric_dtype(table[name])]
    if wrong := [name for name in wanted if name not in numeric]:
        raise InputError(
            *(
                f"quantity {name!r} is not a numeric column; {nearest(name, numeric)}"
                for name in wrong
            )
        )
    loss = "similarity_loss" if "similarity_loss" in table else "loss"
    names = identity_columns(table)
    means = _cell_means(table, [*PAIR, *names], loss, wanted)
    means["region"] = pd.Series(_regions_of(means, regions), index=means.index, dtype="object")
    long = means.melt(
        [*PAIR, *names, loss, "region"], wanted, var_name="quantity", value_name="value"
    ).dropna(subset=["region", "value"])
    long["region"] = pd.Categorical(long["region"], ["lower", "band", "upper"])
    long["quantity"] = pd.Categorical(long["quantity"], wanted)
    keys = [*PAIR, *names, loss, "quantity", "region"]
    summary = long.groupby(keys, dropna=False, observed=True)["value"].agg(["count", "mean", "sem"])
    summary = summary.reset_index().rename(columns={"count": "n", "sem": "standard_error"})
    return summary.astype({"quantity": "str", "region": "str"})


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation, in [-1, 1], over the places where both values are finite.

    NaN under three such places, or where either is constant.

    Args:
        first: [N].
        second: [N].
    """
    from scipy import stats  # takes half a second, and every sweep imports this package

    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    if both.sum() < _LEAST_CELLS or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(stats.spearmanr(first, second).statistic)


def measure_correlations(
    table: pd.DataFrame, quantities: Sequence[str] | None = None
) -> pd.DataFrame:
    """Rank correlations between measures over the cells of each matrix.

    Distances (`LIKENESS` of -1) count with the opposite sign, so that 1 always means that the two call
    the same cells alike. Repeats of a cell are averaged first. There is no p-value: the cells of a
    matrix share two networks and their neighbours' layers, and are no independent sample.

    Args:
        table: what `loss_table` returned.
        quantities: columns to compare; the calibrated accuracy and every measure if not given.

    Returns:
        A row per matrix (sender, receiver, factors, loss) and pair of quantities `first` and `second`:
        `spearman`, and `n`, the cells in which both are defined. NaN under three cells, or where one
        of the two is constant.

    Raises:
        InputError: a quantity is no column.
    """
    wanted = list(quantities or ["accuracy_calibrated", *(q for q in LIKENESS if q in table)])
    if wrong := [name for name in wanted if name not in table]:
        raise InputError(
            *(f"there is no quantity {n!r}; {nearest(n, map(str, table.columns))}" for n in wrong)
        )
    names = identity_columns(table)
    means = _cell_means(table, [*PAIR, *names], "loss", wanted)
    keys = [*PAIR, *names, "loss"]
    rows = []
    for key, matrix in means.groupby(keys, dropna=False):
        alike = {q: LIKENESS.get(q, 1) * matrix[q].to_numpy(dtype="float64") for q in wanted}
        for first, second in itertools.combinations(wanted, 2):
            defined = np.isfinite(alike[first]) & np.isfinite(alike[second])
            rows.append(
                {
                    **dict(zip(keys, key, strict=True)),
                    "first": first,
                    "second": second,
                    "spearman": spearman(alike[first], alike[second]),
                    "n": int(defined.sum()),
                }
            )
    return pd.DataFrame(rows, columns=[*keys, "first", "second", "spearman", "n"])


def hacking(
    results: pd.DataFrame,
    *,
    chance: float,
    well: float = WELL,
    far: float = FAR,
    measure: str = "val_relative_mse",
    representations: pd.DataFrame | None = None,
    metric: str = "val_accuracy",
    mode: Mode = "max",
) -> pd.DataFrame:
    """Cells that perform well through a representation far from the one the receiver expects.

    A cell *performs well* when its rescaled calibrated accuracy, (accuracy - chance) / (best - chance)
    with `best` the better of the two networks' own accuracies, is at least `well`. Its representation
    is *far* when `measure` is on the far side of `far`: by default when the stitched representation
    differs from the expected one by at least the expected one's own variance, so that a constant would
    be as near. Both together are *hacking*: what performs is not the representation that was to be
    compared. It says nothing about why; `nearest` tells whether a stitch of the same cell, trained for
    whatever loss, came nearer.

    A loss that is blind to scale and shift leaves them to chance, and its mean squared errors say as
    much of that as of the representation. Those behind the calibration are taken from
    `representations`; where they aren't there, such a trial's distance is missing. A loss counts as
    blind when calibration moved the accuracy of any of its trials.

    Args:
        results: a row per trial, as `load_results` returns it.
        chance: accuracy of a guess.
        well: from which rescaled accuracy a cell performs well.
        far: from which value of `measure` a representation is far; for a measure of which more is more
            alike, up to which.
        measure: a key of `LIKENESS`.
        representations: `representations.parquet` as `measure` wrote it.
        metric: the column that chooses trials.
        mode: whether "max" or "min" of it is best.

    Returns:
        What `loss_table` returns, of finished trials, with `rescaled`, `nearest` and `nearest_loss` (the
        most alike value of `measure` in that cell and repeat over all losses, and which loss reached
        it), and the columns `well`, `far` and `hacking`, missing where one isn't defined.

    Raises:
        InputError: no such measure, or `results` lacks it.

    Example:
        >>> found = hacking(load_results(folder), chance=0.1)  # doctest: +SKIP
        >>> found[found["hacking"].fillna(False)]  # doctest: +SKIP
    """
    if measure not in LIKENESS:
        raise InputError(f"measure {measure!r}: {nearest(measure, LIKENESS)}")
    table = loss_table(results, metric=metric, mode=mode)
    if measure not in table:
        raise InputError(f"missing column: {measure}; the results are of an older version")
    table = table[table["status"] == "finished"].reset_index(drop=True)
    table["rescaled"] = rescaled_accuracy(table, chance=chance)
    _take_calibrated(table, representations)
    sign = LIKENESS[measure]
    alike = sign * table[measure]
    cell = [*PAIR, *identity_columns(table), *CELL, "repeat"]
    ordered = table.assign(_alike=alike).sort_values("_alike", ascending=False, kind="stable")
    best = ordered.dropna(subset=["_alike"]).drop_duplicates(cell)
    named = best[[*cell, measure, "loss"]].rename(
        columns={measure: "nearest", "loss": "nearest_loss"}
    )
    table = table.merge(named, on=cell, how="left")
    performs = _known(table["rescaled"] >= well, table["rescaled"])
    distant = _known(sign * table[measure] <= sign * far, table[measure])
    return table.assign(well=performs, far=distant, hacking=performs & distant)


def rescaled_accuracy(table: pd.DataFrame, *, chance: float) -> pd.Series:
    """Calibrated accuracies with 0 for chance and 1 for the better of the pair's own accuracies.

    Args:
        table: what `loss_table` returned.
        chance: accuracy of a guess.

    Returns:
        A value per row, not clipped; NaN where neither network's accuracy is known or the better one is
        near chance (see `analysis.order.rescaled`).
    """
    best = table[["sender_accuracy", "receiver_accuracy"]].max(axis=1)
    found = pd.Series(math.nan, index=table.index, dtype="float64")
    for value in best.dropna().unique():
        rows = table.index[best == value]
        values = table.loc[rows, ["accuracy_calibrated"]]
        found[rows] = rescaled(values, chance, float(value))["accuracy_calibrated"]
    return found


def _take_calibrated(table: pd.DataFrame, representations: pd.DataFrame | None) -> None:
    """Put mean squared errors behind the calibration in the place of those in front of it."""
    moved = table["accuracy_raw"] != table["accuracy_calibrated"]
    blind = table["loss"].isin(table.loc[moved, "loss"])
    known = (
        pd.DataFrame(columns=list(_OF_CALIBRATED.values()))
        if representations is None
        # Merged folders may hold a trial twice, with the same figures.
        else representations.drop_duplicates("similarity_trial").set_index("similarity_trial")
    )
    for name, column in _OF_CALIBRATED.items():
        if name in table:
            calibrated = table["trial"].map(known[column].astype("float64"))
            table[name] = calibrated.where(blind | calibrated.notna(), table[name])


def _is_loss(path: str) -> bool:
    return path == "loss" or path.startswith("loss.")


def _known(condition: pd.Series, value: pd.Series) -> pd.Series:
    return condition.astype("boolean").mask(value.isna())


def _cell_means(
    table: pd.DataFrame, matrix: list[str], loss: str, quantities: list[str]
) -> pd.DataFrame:
    """Means over the repeats of each cell, of those values that are there.

    The row of the image is left out: it is a control, and no layer of the sender's.
    """
    keys = [*matrix, loss, *CELL]
    return (
        table[table["sender_layer"] >= 0]
        .groupby(keys, dropna=False)[quantities]
        .mean()
        .reset_index()
    )


def _regions_of(
    cells: pd.DataFrame, regions: pd.DataFrame | Mapping[tuple[str, str], pd.DataFrame]
) -> list[object]:
    found = []
    for sender, receiver, i, j in cells[[*PAIR, *CELL]].itertuples(index=False):
        if isinstance(regions, pd.DataFrame):
            of_pair: pd.DataFrame | None = regions
        else:
            of_pair = regions.get((sender, receiver))
        if of_pair is None:
            raise InputError(f"there are no regions for the pair {sender} -> {receiver}")
        inside = i in of_pair.index and j in of_pair.columns
        found.append(of_pair.loc[i, j] if inside else None)
    return found
