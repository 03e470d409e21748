"""Descriptions of charts as plain data: values, texts, axes and styles, without a drawing library.

All texts are plain. A renderer escapes whatever its library would read as markup. In hover texts a
line break starts a new line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from stitch_sweep.charts.colors import SeriesStyle

CellState = Literal["", "failed", "not run"]


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Attributes:
        title: the title beside the axis.
        limits: lower and upper end: both, none (automatic), or 0 and None (from zero on).
        ticks: positions with their labels; None for automatic ones.
        is_log: whether the axis is logarithmic.
        whole_ticks: whether automatic ticks are whole numbers.
    """

    title: str = ""
    limits: tuple[float | None, float | None] = (None, None)
    ticks: tuple[tuple[float, str], ...] | None = None
    is_log: bool = False
    whole_ticks: bool = False


@dataclass(frozen=True, eq=False)
class Series:
    """Points and a line through them.

    Attributes:
        x: positions on the horizontal axis, or labels of its ticks.
        y: values; NaN leaves a gap.
        style: color, dash and marker.
        name: the legend's entry; empty for none.
        has_line: whether the points are connected.
        has_markers: whether the points have markers.
        errors: lengths of the error bars below and above each point.
        hover: a text per point, empty for none.
        opacity: from 0 to 1.
    """

    x: Sequence[float]
    y: Sequence[float]
    style: SeriesStyle
    name: str = ""
    has_line: bool = True
    has_markers: bool = True
    errors: tuple[Sequence[float], Sequence[float]] | None = None
    hover: Sequence[str] = ()
    opacity: float = 1.0


@dataclass(frozen=True)
class Span:
    """A shaded range of the horizontal axis."""

    low: float
    high: float
    color: str


@dataclass(frozen=True)
class ReferenceLine:
    """A horizontal dotted line with a label at its right end."""

    value: float
    label: str


@dataclass(frozen=True, eq=False)
class LineChart:
    """Lines and points over a common pair of axes."""

    series: Sequence[Series]
    x: Axis
    y: Axis
    title: str = ""
    spans: Sequence[Span] = ()
    references: Sequence[ReferenceLine] = ()


@dataclass(frozen=True, eq=False)
class ChartRow:
    """Line charts side by side that share one legend: each has the same series, in the same order."""

    charts: Sequence[LineChart]


@dataclass(frozen=True, eq=False)
class BarGroup:
    """One bar per category.

    Attributes:
        name: the legend's entry.
        values: a value per category; NaN for none.
        style: its color fills the bars.
    """

    name: str
    values: Sequence[float]
    style: SeriesStyle


@dataclass(frozen=True, eq=False)
class BarChart:
    """Horizontal bars, or points where there are too many groups for bars.

    Attributes:
        categories: labels, from the bottom up.
        groups: the values.
        x: the axis of the values.
        as_points: whether each value is a point in one color.
    """

    categories: Sequence[str]
    groups: Sequence[BarGroup]
    x: Axis
    as_points: bool = False


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Colored cells with their numbers.

    Attributes:
        values: [rows, columns]; NaN where there is no value.
        texts: the text in every cell.
        row_labels: labels of the rows, from the top down.
        column_labels: labels of the columns.
        row_title: title of the vertical axis.
        column_title: title of the horizontal axis.
        limits: lower and upper end of the color scale.
        value_title: title of the color scale.
        states: the reason why a cell has no value; "" where it has a value or no reason is known.
        title: the title above the heatmap.
        subtitle: a line below the title.
        digits: number of decimals on hover.
    """

    values: np.ndarray
    texts: Sequence[Sequence[str]]
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    limits: tuple[float, float]
    row_title: str = ""
    column_title: str = ""
    value_title: str = ""
    states: Sequence[Sequence[CellState]] = ()
    title: str = ""
    subtitle: str = ""
    digits: int = 4

    def empty_cells(self) -> list[tuple[int, int, CellState]]:
        """Return row, column and state of every cell that has a state and no value."""
        return [
            (i, j, state)
            for i, row in enumerate(self.states)
            for j, state in enumerate(row)
            if state
        ]


@dataclass(frozen=True, eq=False)
class HeatmapGrid:
    """Heatmaps of one kind of value with one color scale.

    Attributes:
        heatmaps: at least one.
        columns: number of heatmaps in a row.
        notes: footnotes: the meaning of the layer numbers, then of the marks.
        heading: a line above all of them; empty for none.
    """

    heatmaps: Sequence[Heatmap]
    columns: int
    notes: Sequence[str]
    heading: str = ""


@dataclass(frozen=True, eq=False)
class SmallMultiples:
    """A small chart per cell of a matrix, all over the same axes.

    Attributes:
        row_labels: a label per row, from the top down.
        column_labels: a label per column.
        cells: (row, column) -> the series of its chart.
        x: the common horizontal axis.
        y: the common vertical axis.
        title: the title above the charts; empty for none.
        is_compact: whether cells have only a frame, without ticks. Both axes then need limits.
    """

    row_labels: Sequence[str]
    column_labels: Sequence[str]
    cells: Mapping[tuple[int, int], Sequence[Series]]
    x: Axis
    y: Axis
    title: str = ""
    is_compact: bool = False


@dataclass(frozen=True, eq=False)
class ImageTable:
    """Rows of images, each with a title.

    Attributes:
        rows: title and images, uint8 [N, C, H, W] with C = 1 or 3, of each row.
    """

    rows: Sequence[tuple[str, np.ndarray]] = field(repr=False)


Chart = LineChart | ChartRow | BarChart | Heatmap | HeatmapGrid | SmallMultiples | ImageTable


def has_values(values: Sequence[float]) -> bool:
    """Whether any value is not NaN."""
    return any(not math.isnan(value) for value in values)
