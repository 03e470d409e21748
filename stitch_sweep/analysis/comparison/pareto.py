"""The Pareto front of each cell, for searches with several objectives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stitch_sweep.analysis.matrix.matrices import Matrix, trials_of
from stitch_sweep.analysis.results import CELL, PAIR, SETTING, Mode, factor_columns

MOST_PLOTS = 150
"""In a figure of more small plots than these, none could be read."""


def pareto_front(results: pd.DataFrame, objectives: Mapping[str, Mode]) -> pd.DataFrame:
    """The trials of each study that no other trial of it dominates.

    A trial dominates another when it is at least as good in every objective and better in one. Trials
    that failed or lack an objective take no part; equals dominate neither and both stay.

    Args:
        results: a row per trial, as `load_results` returns it.
        objectives: column -> whether "max" or "min" of it is best.

    Returns:
        Rows of `results`, study by study, within a study from best to worst in the first objective.
    """
    # A measure that no trial has leaves no column, or one without a type.
    values = results.reindex(columns=list(objectives)).apply(pd.to_numeric)
    there = (results["status"] == "finished") & values.notna().all(axis=1)
    known = results[there].assign(**values[there])
    signs = np.array([1.0 if mode == "max" else -1.0 for mode in objectives.values()])
    study = [*PAIR, *factor_columns(results), *CELL, "repeat"]
    fronts = [
        cells[_undominated(cells[list(objectives)].to_numpy(dtype="float64") * signs)]
        for _, cells in known.groupby(study, dropna=False)
    ]
    if not fronts:
        return known
    first = next(iter(objectives))
    return pd.concat(
        [front.sort_values([first, "number"], ascending=[signs[0] < 0, True]) for front in fronts],
        ignore_index=True,
    )


def _undominated(values: np.ndarray) -> np.ndarray:
    """Which rows of values [N, M], where more is better, no other row dominates: bool [N]."""
    kept = np.ones(len(values), dtype=bool)
    for k, row in enumerate(values):  # a row at a time: N x N x M would not fit for large studies
        kept[k] = not ((values >= row).all(axis=1) & (values > row).any(axis=1)).any()
    return kept


def pareto_table(front: pd.DataFrame, objectives: Mapping[str, Mode]) -> pd.DataFrame:
    """What of a front belongs into a table for people: who, the objectives, and what was searched."""
    about = ["trial", *PAIR, *CELL, "repeat", "number", *factor_columns(front)]
    searched = [name for name in front.columns if str(name).startswith(SETTING)]
    return front.reindex(
        columns=list(dict.fromkeys([*about, *objectives, "test_accuracy", *searched]))
    )


def draw_fronts(
    trials: pd.DataFrame, front: pd.DataFrame, objectives: Mapping[str, Mode]
) -> Figure:
    """A small plot per cell, arranged as the matrix: every trial, and the front as a line.

    Args:
        trials: all trials of one matrix.
        front: those of them that `pareto_front` kept.
        objectives: the first is drawn upwards, the second to the right.

    Returns:
        A figure that pyplot doesn't know of.
    """
    up, right = list(objectives)[:2]
    rows, columns = (sorted(trials[name].unique()) for name in CELL)
    figure = Figure(
        figsize=(1.2 + 1.25 * len(columns), 1.2 + 1.1 * len(rows)), layout="constrained"
    )
    grid = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    spread = trials[right].dropna()
    if len(spread) and spread.min() > 0 and spread.max() > 30 * spread.min():
        grid[0, 0].set_xscale("log")
    for (i, layer), (j, onto) in itertools.product(enumerate(rows), enumerate(columns)):
        axes = grid[i, j]
        here = [t[(t[CELL[0]] == layer) & (t[CELL[1]] == onto)] for t in (trials, front)]
        axes.scatter(here[0][right], here[0][up], s=5, color="#b0b0b0", linewidths=0)
        for _, one in here[1].groupby("repeat"):
            ordered = one.sort_values(right)
            axes.plot(ordered[right], ordered[up], "o-", color="#21618c", markersize=3, linewidth=1)
        axes.tick_params(labelsize=7, length=2)
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axes.set_title(f"receiver layer {onto}", size=8)
        if j == 0:
            axes.set_ylabel(f"sender layer {layer}", size=8)
    sender, receiver = (trials[name].iloc[0] for name in PAIR)
    figure.suptitle(f"{sender} → {receiver}: trials, and what none beats in both", size=10)
    figure.supxlabel(right.replace("_", " "), size=9)
    figure.supylabel(up.replace("_", " "), size=9)
    return figure


def front_figures(
    results: pd.DataFrame, matrices: Iterable[Matrix], objectives: Mapping[str, Mode]
) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """A figure of the fronts per matrix, as its file name and what draws it.

    Matrices without a front, or with more than `MOST_PLOTS` cells, have none.

    Args:
        results: a row per trial, as `load_results` returns it.
        matrices: of these results.
        objectives: as for `pareto_front`; nothing is drawn without any.
    """
    if not objectives:
        return
    front = pareto_front(results, objectives)
    for matrix in matrices:
        trials = trials_of(results, matrix)
        kept = front[front["trial"].isin(trials["trial"])]
        if len(kept) and matrix.values.size <= MOST_PLOTS:
            yield f"pareto__{matrix.file_name}", partial(draw_fronts, trials, kept, objectives)
