"""Heatmaps of matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.charts.captions import describe_networks, explain_marks, format_value
from stitch_sweep.charts.colors import value_range
from stitch_sweep.charts.elements import CellState, Heatmap, HeatmapGrid
from stitch_sweep.core.measures import short_title


def describe_matrix(matrix: Matrix, limits: tuple[float, float] | None = None) -> Heatmap:
    """Describe a matrix: a colored cell with its number per sender layer (row) and receiver layer.

    A failed cell shows ×; a number whose stitch did not converge has an asterisk.

    Args:
        matrix: I sender layers by J receiver layers, from 1 x 1 on.
        limits: ends of the color scale; None for those of `value_range`.
    """
    values = matrix.values.to_numpy()
    unconverged, failed = matrix.unconverged.to_numpy(), matrix.failed.to_numpy()

    def text(i: int, j: int) -> str:
        if math.isnan(values[i, j]):
            return "×" if failed[i, j] else ""
        return format_value(float(values[i, j])) + ("*" if unconverged[i, j] else "")

    def state(i: int, j: int) -> CellState:
        if not math.isnan(values[i, j]):
            return ""
        return "failed" if failed[i, j] else "not run"

    rows, columns = values.shape
    return Heatmap(
        values=values,
        texts=[[text(i, j) for j in range(columns)] for i in range(rows)],
        states=[[state(i, j) for j in range(columns)] for i in range(rows)],
        row_labels=[str(layer) for layer in matrix.values.index],
        column_labels=[
            f"{layer}°" if int(layer) in matrix.receiver_free else str(layer)
            for layer in matrix.values.columns
        ],
        row_title=matrix.axes[0],
        column_title=matrix.axes[1],
        limits=value_range([matrix]) if limits is None else limits,
        value_title=short_title(matrix.value_name),
        title=matrix.title,
        subtitle=describe_networks(matrix),
    )


def describe_matrices(
    matrices: Sequence[Matrix], columns: int = 3, heading: str | None = None
) -> HeatmapGrid:
    """Describe several matrices of one kind of value side by side, with one color scale.

    Args:
        matrices: at least one; they may differ in shape.
        columns: the largest number of matrices in a row.
        heading: a line above all of them.

    Raises:
        ValueError: no matrices, no columns, or matrices of different kinds of values.
    """
    if not matrices or columns < 1:
        raise ValueError("a grid of matrices needs at least one matrix and one column")
    names = sorted({matrix.value_name for matrix in matrices})
    if len(names) > 1:
        raise ValueError(f"one color scale can't show different values: {', '.join(names)}")
    limits = value_range(matrices)
    return HeatmapGrid(
        heatmaps=[describe_matrix(matrix, limits) for matrix in matrices],
        columns=min(columns, len(matrices)),
        notes=explain_marks(matrices, missing="hatched cells"),
        heading=heading or "",
    )


def describe_correlations(square: pd.DataFrame) -> Heatmap:
    """Describe the rank correlations of every two measures, from -1 to 1.

    Args:
        square: symmetric, with the measures' columns of results as index and columns.
    """
    titles = [short_title(str(name)) for name in square.columns]
    values = square.to_numpy(dtype="float64")
    return Heatmap(
        values=np.asarray(values),
        texts=[["" if math.isnan(v) else f"{v:z.2f}" for v in row] for row in values],
        row_labels=titles,
        column_labels=titles,
        limits=(-1.0, 1.0),
        value_title="rank correlation",
        digits=2,
    )
