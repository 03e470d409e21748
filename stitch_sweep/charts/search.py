"""Charts of the search: importances of settings, and the fronts of several objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import pandas as pd

from stitch_sweep.analysis.comparison.pareto import pareto_front
from stitch_sweep.analysis.matrix.matrices import trials_of
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.results import CELL, PAIR, Mode
from stitch_sweep.charts.colors import SeriesStyle, series_style
from stitch_sweep.charts.elements import Axis, BarChart, BarGroup, Series, SmallMultiples

MOST_BAR_GROUPS = 6
"""Maximum number of groups for bars; importances of more groups are drawn as points."""
MOST_FRONTS = 150
"""Maximum number of small charts in a figure; a larger figure would be illegible and is not drawn."""
_TRIAL_STYLE = SeriesStyle("#9a9a9a")
_FRONT_STYLE = SeriesStyle("#0072b2")


def describe_importances(table: pd.DataFrame, group_names: Sequence[str]) -> BarChart:
    """Describe the importance of every searched setting, with a bar per group.

    Args:
        table: the measured table `importances`: `setting`, `importance`.
        group_names: the name of each row's group.
    """
    named = table.assign(group=list(group_names))
    settings = named.groupby("setting")["importance"].mean().sort_values().index.tolist()
    groups = [
        BarGroup(
            str(name),
            group.set_index("setting")["importance"]
            .reindex(settings)
            .to_numpy(dtype="float64", na_value=float("nan"))
            .tolist(),
            series_style(position),
        )
        for position, (name, group) in enumerate(named.groupby("group", sort=False))
    ]
    axis = Axis("importance", (-0.02, 1.03))
    return BarChart(settings, groups, axis, as_points=len(groups) > MOST_BAR_GROUPS)


def describe_fronts(
    trials: pd.DataFrame, front: pd.DataFrame, objectives: Mapping[str, Mode]
) -> SmallMultiples:
    """Describe the trials of every cell as points, and the front of each repeat as a line.

    Args:
        trials: all trials of one matrix.
        front: the trials that `pareto_front` keeps.
        objectives: the first is on the vertical axis, the second on the horizontal axis.
    """
    vertical, horizontal = list(objectives)[:2]
    rows, columns = (sorted(trials[name].unique()) for name in CELL)

    def series(row: int, column: int) -> list[Series]:
        def in_cell(table: pd.DataFrame) -> pd.DataFrame:
            return table[(table[CELL[0]] == row) & (table[CELL[1]] == column)]

        def line(table: pd.DataFrame, style: SeriesStyle, has_line: bool) -> Series:
            x, y = (table[name].astype("float64").tolist() for name in (horizontal, vertical))
            hover = [f"{a:.4g}, {b:.4g}" for a, b in zip(x, y, strict=True)]
            return Series(x, y, style, has_line=has_line, hover=hover)

        fronts = [
            line(members.sort_values(horizontal), _FRONT_STYLE, has_line=True)
            for _, members in in_cell(front).groupby("repeat")
        ]
        return [line(in_cell(trials), _TRIAL_STYLE, has_line=False), *fronts]

    values = trials[horizontal].dropna()
    is_log = bool(len(values) and values.min() > 0 and values.max() > 30 * values.min())
    sender, receiver = (trials[name].iloc[0] for name in PAIR)
    return SmallMultiples(
        row_labels=[f"sender layer {layer}" for layer in rows],
        column_labels=[f"receiver layer {layer}" for layer in columns],
        cells={
            (i, j): series(row, column)
            for i, row in enumerate(rows)
            for j, column in enumerate(columns)
        },
        x=Axis(horizontal.replace("_", " "), is_log=is_log),
        y=Axis(vertical.replace("_", " ")),
        title=f"{sender} → {receiver}: all trials, and the non-dominated ones",
    )


def front_charts(
    results: pd.DataFrame, matrices: Iterable[Matrix], objectives: Mapping[str, Mode]
) -> Iterator[tuple[str, Callable[[], SmallMultiples]]]:
    """Iterate over the charts of Pareto fronts, one per matrix: file name and describing function.

    A matrix without a front, or with more than `MOST_FRONTS` cells, has no chart.

    Args:
        results: a row per trial, as `load_results` returns it.
        matrices: matrices of these results.
        objectives: as for `pareto_front`; if empty, there are no charts.
    """
    if not objectives:
        return
    front = pareto_front(results, objectives)
    for matrix in matrices:
        trials = trials_of(results, matrix)
        members = front[front["trial"].isin(trials["trial"])]
        if len(members) and matrix.values.size <= MOST_FRONTS:
            yield (
                f"pareto__{matrix.file_name}",
                partial(describe_fronts, trials, members, objectives),
            )
