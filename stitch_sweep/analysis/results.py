"""Load `results.parquet`, check it, and choose the best trial of every study."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

import pandas as pd
from pandas.api import types

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.storage.layout import RESULTS
from stitch_sweep.storage.parquet import read_table

Mode = Literal["max", "min"]

FACTOR = "factor."
SETTING = "setting."
PAIR = ["sender", "receiver"]
CELL = ["sender_layer", "receiver_layer"]

MAX_CELLS = 10_000_000
"""Maximum number of cells of all matrices of a table together; more would fill the memory."""
_INTEGER_LIMIT = 2**31
_INTEGERS = [*CELL, "repeat", "number"]
_NUMBERS = ["val_accuracy", "test_accuracy", "penalty", "sender_accuracy", "receiver_accuracy"]
REQUIRED = ["trial", *PAIR, *_INTEGERS, "status", *_NUMBERS, "converged"]

_OPTIONAL_NUMBERS = re.compile(
    r"accuracy_(raw|calibrated)|(train|val|test)_\w+(\.\w+)?|excess|seconds"
)


def uses_test_images(metric: str) -> bool:
    """Whether a metric is computed on test images, which must not choose trials."""
    return metric.startswith(("test_", "accuracy_")) or metric == "penalty"


def factor_columns(results: pd.DataFrame) -> list[str]:
    """List the columns of the factors that were crossed with the pairs, sorted."""
    return sorted(str(name) for name in results.columns if str(name).startswith(FACTOR))


def is_copied(results: pd.DataFrame) -> pd.Series:
    """Whether each trial has the copied result of an equal trial instead of its own training."""
    if "copied_from" not in results.columns:  # written by a version that copied no trials
        return pd.Series(False, index=results.index)
    return results["copied_from"].notna()


def load_results(folder: str | Path) -> pd.DataFrame:
    """Read and check the results of one experiment folder.

    Args:
        folder: an experiment folder that contains `results.parquet`.

    Returns:
        A row per trial. Layers, `repeat` and `number` are int64, accuracies float64 in [0, 1],
        `converged` is pandas' nullable boolean, `status` is "finished", "failed" or "stopped" (by a
        scheduler, before its end).

    Raises:
        InputError: the file is missing, is not a parquet table or contains no trials, or columns
            are missing or of the wrong type (the message names all of them).

    Example:
        >>> results = load_results("experiments/quickstart/digits")  # doctest: +SKIP
    """
    path = Path(folder) / RESULTS
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: not a folder; expected an experiment folder")
    if not path.is_file():
        raise InputError(f"{path}: no such file; has the sweep in this folder finished a trial?")
    results = read_table(path)
    try:
        return check_results(results)
    except InputError as error:
        raise InputError(*(f"{path}: {problem}" for problem in error.problems)) from error


def check_results(results: pd.DataFrame) -> pd.DataFrame:
    """Check a table of trials and convert its columns to the types that `load_results` promises.

    Args:
        results: a row per trial; it is not modified.

    Returns:
        A copy with a new index.

    Raises:
        InputError: no rows, or missing or wrong columns (the message names all of them).
    """
    missing = [name for name in REQUIRED if name not in results.columns]
    if missing:
        raise InputError(f"missing columns: {', '.join(missing)}; is it a sweep's results.parquet?")
    if results.empty:
        raise InputError("it contains no trials")
    results = results.reset_index(drop=True)
    problems = []
    for name in _INTEGERS:
        column = results[name]
        is_number = types.is_numeric_dtype(column) and bool(column.notna().all())
        if is_number and bool(((column % 1 == 0) & (column.abs() < _INTEGER_LIMIT)).all()):
            results[name] = column.astype("int64")
        else:
            problems.append(f"column {name} must contain whole numbers in every row")
    optional = [c for c in map(str, results.columns) if _OPTIONAL_NUMBERS.fullmatch(c)]
    for name in dict.fromkeys([*_NUMBERS, *optional]):
        # A column that has missing values only is stored without a type.
        if types.is_numeric_dtype(results[name]) or results[name].isna().all():
            results[name] = results[name].astype("float64")
        else:
            problems.append(f"column {name} must contain numbers")
            continue
        if name.endswith("_accuracy") and not results[name].dropna().between(0, 1).all():
            problems.append(f"column {name} must contain numbers from 0 to 1")
    for name in ["trial", *PAIR]:
        if not results[name].map(lambda value: isinstance(value, str)).all():
            problems.append(f"column {name} must contain text in every row")
    for name in factor_columns(results):
        if results[name].map(types.is_list_like).any():
            problems.append(f"column {name} must contain text or numbers")
    try:
        results["converged"] = results["converged"].astype("boolean")
    except (TypeError, ValueError):
        problems.append("column converged must contain true, false or nothing")
    statuses = set(results["status"]) - {"finished", "failed", "stopped"}
    if statuses:
        values = ", ".join(sorted(map(repr, statuses)))
        problems.append(
            f"column status contains {values}; allowed: 'finished', 'failed', 'stopped'"
        )
    if problems:
        raise InputError(*problems)
    if (cells := _count_cells(results)) > MAX_CELLS:
        raise InputError(f"its matrices have {cells:,} cells; at most {MAX_CELLS:,} are shown")
    return results


def _count_cells(results: pd.DataFrame) -> int:
    """Count the cells of all matrices, empty ones included."""
    factors = factor_columns(results)
    return sum(
        len(rows[factors].drop_duplicates() if factors else rows[:1])
        * math.prod(rows[name].nunique() for name in CELL)
        for _, rows in results.groupby(PAIR)
    )


def best_trials(
    results: pd.DataFrame, metric: str = "val_accuracy", mode: Mode = "max"
) -> pd.DataFrame:
    """Choose the trial that represents each study; test images are not used.

    A study is one (sender, receiver, sender layer, receiver layer, repeat, factor values). It is
    represented by its finished trial with the best `metric`; on a tie, by that with the lowest `number`.
    A finished trial without the metric comes last. A failed trial represents a study in which no
    trial finished. Trials that a scheduler stopped never represent a study: they have no result.

    Args:
        results: a row per trial, as `load_results` returns it.
        metric: the column that the search optimized.
        mode: whether its "max" or its "min" is best.

    Returns:
        A row per study with all columns of `results`, sorted by pair, factors, layers and repeat.

    Raises:
        InputError: no such column or mode, or the metric is computed on test images.
    """
    if mode not in ("max", "min"):
        raise InputError(f"mode {mode!r}: {nearest(str(mode), ['max', 'min'])}")
    if uses_test_images(metric):
        raise InputError(f"metric {metric!r} is computed on test images and can't choose trials")
    numeric = [str(name) for name in results.columns if types.is_numeric_dtype(results[name])]
    if metric not in numeric:
        raise InputError(f"metric {metric!r} is not a numeric column; {nearest(metric, numeric)}")
    study = [*PAIR, *factor_columns(results), *CELL, "repeat"]
    results = results[results["status"] != "stopped"]
    sign = -1.0 if mode == "max" else 1.0
    ranking = pd.DataFrame(
        {
            "failed": results["status"] != "finished",
            "score": sign * results[metric].astype("float64"),
            "number": results["number"],
        }
    ).sort_values(["failed", "score", "number"], kind="stable", na_position="last")
    best = results.loc[ranking.index].drop_duplicates(study)
    return best.sort_values(study, kind="stable").reset_index(drop=True)
