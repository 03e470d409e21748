"""Trajectories of one trial, and of all cells of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from stitch_sweep.charts.colors import series_style
from stitch_sweep.charts.elements import Axis, LineChart, Series, SmallMultiples

Path = tuple[Sequence[float], Sequence[float]]
"""Epochs and values in [0, 1]."""


def describe_training(trajectory: pd.DataFrame, title: str) -> LineChart:
    """Describe the accuracy of one training over its steps, with a line per split.

    Args:
        trajectory: `step`, `split`, `accuracy`.
        title: the title of the chart.
    """
    series = []
    for position, (split, group) in enumerate(trajectory.groupby("split", sort=True)):
        rows = group[group["accuracy"].notna()]
        if len(rows):
            steps, accuracies = rows["step"].tolist(), rows["accuracy"].astype("float64").tolist()
            series.append(Series(steps, accuracies, series_style(position), str(split)))
    return LineChart(series, Axis("step", (0, None)), Axis("accuracy", (0, 1.03)), title)


def describe_trajectories(
    paths: Mapping[tuple[int, int], Sequence[Path]],
    sender_layers: Sequence[int],
    receiver_layers: Sequence[int],
    value_title: str,
) -> SmallMultiples:
    """Describe the trajectories of every cell, arranged as in the matrix.

    A path of one point, such as that of a trial without steps, becomes a level line.

    Args:
        paths: (sender layer, receiver layer) -> the paths of its trials.
        sender_layers: the rows.
        receiver_layers: the columns.
        value_title: the title of the values.
    """
    last = max((max(x) for members in paths.values() for x, _ in members if len(x)), default=1)
    last = last or 1.0
    style = series_style(0)
    return SmallMultiples(
        row_labels=[str(layer) for layer in sender_layers],
        column_labels=[str(layer) for layer in receiver_layers],
        cells={
            (i, j): [
                Series(*_as_line(path, last), style, has_markers=False)
                for path in paths.get((row, column), [])
            ]
            for i, row in enumerate(sender_layers)
            for j, column in enumerate(receiver_layers)
        },
        x=Axis(f"receiver layer; in each cell epochs 0 to {last:g}", (0, float(last))),
        y=Axis(f"sender layer; {value_title} 0 to 1", (0, 1)),
        is_compact=True,
    )


def _as_line(path: Path, last: float) -> Path:
    x, y = path
    return path if len(x) != 1 else ((0.0, last), (y[0], y[0]))
