"""Line charts, bars, small multiples and images drawn by matplotlib."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis as MatplotlibAxis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, NullLocator

from stitch_sweep.charts.colors import SERIES
from stitch_sweep.charts.elements import (
    Axis,
    BarChart,
    ChartRow,
    ImageTable,
    LineChart,
    Series,
    SmallMultiples,
)

_DASHES = {"solid": "-", "dashed": "--", "dotted": ":", "dashdot": "-."}
_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle": "^", "x": "X", "plus": "P"}
_FAINT = "#8a929b"
_FRAME = "#c3c8ce"
_SMALL = 8.5
_TITLE = 9.5


def draw_lines(chart: LineChart) -> Figure:
    """Draw a line chart."""
    figure, axes = _new_chart()
    _draw_line_chart(axes, chart)
    # The labels of reference lines stand between the chart and its legend.
    _draw_legend(axes, left=1.16 if chart.references else 1.0)
    return figure


def draw_row(row: ChartRow) -> Figure:
    """Draw line charts side by side with one legend."""
    count = len(row.charts)
    figure = Figure(figsize=(2.5 * count + 1.6, 2.7), facecolor="white", layout=_new_layout())
    all_axes = figure.subplots(1, count, squeeze=False)[0]
    for axes, chart in zip(all_axes, row.charts, strict=True):
        _draw_line_chart(axes, chart)
    _draw_legend(all_axes[-1])
    return figure


def draw_bars(chart: BarChart) -> Figure:
    """Draw horizontal bars, or points where there are too many groups."""
    count = len(chart.categories)
    bars = 1 if chart.as_points else len(chart.groups)
    figure, axes = _new_chart(6.2, 0.9 + count * (0.2 + 0.16 * bars))
    places = np.arange(count)
    for position, group in enumerate(chart.groups):
        values = np.array(group.values, dtype="float64")
        if chart.as_points:
            axes.scatter(values, places, color=SERIES[0], alpha=0.55, s=28, linewidths=0)
            continue
        height = 0.8 / bars
        centers = places + 0.4 - height * (position + 0.5)
        color = group.style.color
        axes.barh(centers, values, height=0.9 * height, color=color, label=group.name)
    axes.set_yticks(range(count), list(chart.categories))
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(-0.6, count - 0.4)
    axes.tick_params(axis="y", labelsize=_SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    _set_axis(axes.xaxis, chart.x)
    axes.set_xlim(*chart.x.limits)
    _draw_legend(axes)
    return figure


def draw_small_multiples(chart: SmallMultiples) -> Figure:
    """Draw a small chart per cell, arranged as in the matrix."""
    return _draw_compact(chart) if chart.is_compact else _draw_subplots(chart)


def draw_images(table: ImageTable) -> Figure:
    """Draw rows of images with their titles."""
    columns = max(len(images) for _, images in table.rows)
    longest = max(len(title) for title, _ in table.rows)
    titles = min(max(0.075 * longest + 0.15, 1.0), 4.0)  # inches
    width = titles + 0.62 * columns
    figure = Figure(figsize=(width, 0.64 * len(table.rows) + 0.2), facecolor="white")
    space = {"wspace": 0.06, "hspace": 0.06, "left": titles / width, "right": 0.99, "top": 0.99,
             "bottom": 0.01}  # fmt: skip
    grid = figure.subplots(len(table.rows), columns, squeeze=False, gridspec_kw=space)
    for line, (title, images) in zip(grid, table.rows, strict=True):
        for axes in line:
            axes.set_axis_off()
        for axes, image in zip(line, images, strict=False):
            pixels = image.transpose(1, 2, 0)
            is_grey = pixels.shape[2] == 1
            axes.imshow(pixels[:, :, 0] if is_grey else pixels, cmap="gray", vmin=0, vmax=255)
        line[0].text(-0.12, 0.5, title, transform=line[0].transAxes, size=7.5, ha="right",
                     va="center", parse_math=False)  # fmt: skip
    return figure


def _new_layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09)  # inches


def _new_chart(width: float = 5.2, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), facecolor="white", layout=_new_layout())
    return figure, figure.add_subplot()


def _draw_line_chart(axes: Axes, chart: LineChart) -> None:
    for series in chart.series:
        _draw_series(axes, series)
    for span in chart.spans:
        axes.axvspan(span.low, span.high, color=span.color, alpha=0.13, linewidth=0)
    for line in chart.references:
        axes.axhline(line.value, color=_FAINT, linewidth=0.8, linestyle=":")
        axes.text(1.02, line.value, line.label, transform=axes.get_yaxis_transform(), size=8,
                  color="#555555", va="center")  # fmt: skip
    if chart.title:
        axes.set_title(chart.title, size=_TITLE, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    _set_axes(axes, chart.x, chart.y)


def _draw_series(axes: Axes, series: Series, scale: float = 1.0) -> None:
    style = series.style
    axes.errorbar(
        series.x,
        series.y,
        yerr=None if series.errors is None else list(series.errors),
        color=style.color,
        linestyle=_DASHES[style.dash] if series.has_line else "none",
        marker=_MARKERS[style.marker] if series.has_markers else "none",
        markersize=4.5 * scale,
        linewidth=1.4 * scale,
        elinewidth=1.0,
        capsize=2.5,
        alpha=series.opacity,
        label=series.name or None,
    )


def _set_axes(axes: Axes, x: Axis, y: Axis) -> None:
    if x.is_log:
        axes.set_xscale("log")
    if y.is_log:
        axes.set_yscale("log")
    _set_axis(axes.xaxis, x)
    _set_axis(axes.yaxis, y)
    # The limits last: ticks may widen them.
    axes.set_xlim(*x.limits)
    axes.set_ylim(*y.limits)


def _set_axis(axis: MatplotlibAxis, description: Axis) -> None:
    if description.ticks is not None:
        axis.set_ticks([k for k, _ in description.ticks], [text for _, text in description.ticks])
        axis.set_minor_locator(NullLocator())
    elif description.whole_ticks:
        axis.set_major_locator(MaxNLocator(integer=True))
    axis.set_label_text(description.title, size=9)
    axis.set_tick_params(labelsize=_SMALL)


def _draw_legend(axes: Axes, left: float = 1.0) -> None:
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return
    wrapped = ["\n".join(textwrap.wrap(name, 36)) or name for name in names]
    legend = axes.legend(handles, wrapped, fontsize=8, frameon=False, loc="upper left",
                         bbox_to_anchor=(left, 1.0))  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_subplots(chart: SmallMultiples) -> Figure:
    rows, columns = len(chart.row_labels), len(chart.column_labels)
    figure = Figure(figsize=(1.2 + 1.25 * columns, 1.2 + 1.1 * rows), layout=_new_layout())
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    if chart.x.is_log:
        grid[0, 0].set_xscale("log")
    for (i, j), members in chart.cells.items():
        axes = grid[i, j]
        for series in members:
            _draw_series(axes, series, scale=0.6)
        axes.margins(0.12)
        axes.tick_params(labelsize=7, length=2)
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axes.set_title(chart.column_labels[j], size=8)
        if j == 0:
            axes.set_ylabel(chart.row_labels[i], size=8)
    if chart.title:
        figure.suptitle(chart.title, size=10, parse_math=False)
    figure.supxlabel(chart.x.title, size=9)
    figure.supylabel(chart.y.title, size=9)
    return figure


def _draw_compact(chart: SmallMultiples) -> Figure:
    """Draw all cells into one pair of axes: a pair of axes per cell would take seconds."""
    rows, columns = len(chart.row_labels), len(chart.column_labels)
    cell = min(max(6.5 / max(rows, columns), 0.45), 1.2)
    figure, axes = _new_chart(max(cell * columns + 0.9, 3.4), max(cell * rows + 1.0, 2.0))
    margin, room = 0.07, 0.86

    def share(values: object, axis: Axis) -> np.ndarray:
        low, high = axis.limits
        assert low is not None
        assert high is not None
        return (np.asarray(values, dtype="float64") - low) / (high - low)

    lines, colors = [], []
    for (i, j), members in chart.cells.items():
        for series in members:
            x = j + margin + room * share(series.x, chart.x)
            y = i + 1 - margin - room * share(series.y, chart.y)
            lines.append(np.column_stack([x, y]))
            colors.append(series.style.color)
    low, high = margin, 1 - margin
    frames = [
        [(j + low, i + low), (j + low, i + high), (j + high, i + high)]
        for i in range(rows)
        for j in range(columns)
    ]
    axes.add_collection(LineCollection(frames, colors=_FRAME, linewidths=0.6))
    axes.add_collection(LineCollection(lines, colors=colors, linewidths=0.9))
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_xticks(np.arange(columns) + 0.5, list(chart.column_labels))
    axes.set_yticks(np.arange(rows) + 0.5, list(chart.row_labels))
    axes.tick_params(length=0, labelsize=_SMALL)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(chart.x.title, size=9)
    axes.set_ylabel(chart.y.title, size=9)
    return figure
