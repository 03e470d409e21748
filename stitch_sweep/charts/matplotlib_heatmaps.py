"""Heatmaps drawn by matplotlib. A figure's size follows from its cells, so numbers stay legible."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from stitch_sweep.charts.colors import cell_colors, color_map
from stitch_sweep.charts.elements import Heatmap, HeatmapGrid

# Lengths in inches.
_LEFT, _BOTTOM = 0.75, 0.6
_BAR_GAP, _BAR, _BAR_LABELS = 0.25, 0.16, 0.75
_MARGIN = 0.15
_LEAST_PLOT = 1.1
_LEAST_WIDTH = 4.4
_NAMED_CELL = 0.42

_HEADING, _TITLE, _PANEL_TITLE, _SMALL = 12.5, 11.0, 9.5, 8.5
_FAINT = "#555555"


class _TextBlock:
    """Lines of one font size, wrapped to a width, with their height in inches."""

    def __init__(self, lines: Sequence[str], size: float, width: float) -> None:
        # A character of matplotlib's default font is about 0.6 of its size wide.
        per_line = max(int(width * 72 / (0.6 * size)), 12)
        self.lines = [part for line in lines for part in textwrap.wrap(line, per_line)]
        self.size = size
        self.height = len(self.lines) * size * 1.35 / 72

    def draw(self, figure: Figure, left: float, top: float, color: str, weight: str) -> None:
        width, height = figure.get_size_inches()
        figure.text(
            left / width,
            top / height,
            "\n".join(self.lines),
            size=self.size,
            color=color,
            weight=weight,
            va="top",
            linespacing=1.25,
            # A "$" in a network's name is a dollar sign, not a formula.
            parse_math=False,
        )


def draw_heatmap_grid(chart: HeatmapGrid) -> Figure:
    """Draw heatmaps with one color scale, titles above them and footnotes below."""
    heatmaps, columns = chart.heatmaps, chart.columns
    is_single = len(heatmaps) == 1
    cell = _cell_size(max(max(heatmap.values.shape) for heatmap in heatmaps))
    by_column = [heatmaps[column::columns] for column in range(columns)]
    by_row = [heatmaps[start : start + columns] for start in range(0, len(heatmaps), columns)]
    plot_widths = [max(_extent(h, 1, cell) for h in group) for group in by_column]
    plot_heights = [max(_extent(h, 0, cell) for h in group) for group in by_row]
    lefts = [sum(plot_widths[:k]) + k * (_LEFT + _MARGIN) for k in range(columns + 1)]
    width = max(lefts[-1] - _MARGIN + _BAR_GAP + _BAR + _BAR_LABELS, _LEAST_WIDTH)

    def caption(k: int) -> tuple[_TextBlock, _TextBlock]:
        # A single heatmap may use the space above the color bar too.
        room = width if is_single else lefts[k % columns + 1] - lefts[k % columns]
        room -= 2 * _MARGIN
        title = _TextBlock([heatmaps[k].title], _TITLE if is_single else _PANEL_TITLE, room)
        return title, _TextBlock([heatmaps[k].subtitle], _SMALL, room)

    captions = [caption(k) for k in range(len(heatmaps))]
    above = [
        0.1 + max(title.height + below.height for title, below in captions[start : start + columns])
        for start in range(0, len(heatmaps), columns)
    ]
    layers, *marks = chart.notes
    footnotes = _TextBlock([layers, "; ".join(marks)], _SMALL, width - 2 * _MARGIN)
    heading = _TextBlock([chart.heading] if chart.heading else [], _HEADING, width - 2 * _MARGIN)
    top = _MARGIN + heading.height + (0.1 if chart.heading else 0)
    height = top + sum(above) + sum(plot_heights) + len(by_row) * _BOTTOM + footnotes.height
    height += _MARGIN

    figure = Figure(figsize=(width, height), facecolor="white")
    heading.draw(figure, _MARGIN, height - _MARGIN, "black", "bold")
    for k, heatmap in enumerate(heatmaps):
        row, column = divmod(k, columns)
        ceiling = height - top - sum(above[:row]) - sum(plot_heights[:row]) - row * _BOTTOM
        title, below = captions[k]
        title.draw(figure, lefts[column] + _MARGIN, ceiling, "black", "bold")
        below.draw(figure, lefts[column] + _MARGIN, ceiling - title.height, _FAINT, "normal")
        plot_height, plot_width = (count * cell for count in heatmap.values.shape)
        bottom = ceiling - above[row] - plot_height
        axes = _place(figure, lefts[column] + _LEFT, bottom, plot_width, plot_height)
        _draw_cells(axes, heatmap, cell)
    bottom = height - top - above[0] - plot_heights[0]
    bar = _place(figure, lefts[-1] - _MARGIN + _BAR_GAP, bottom, _BAR, plot_heights[0])
    _draw_color_bar(bar, heatmaps[0], plot_heights[0])
    footnotes.draw(figure, _MARGIN, _MARGIN + footnotes.height, _FAINT, "normal")
    return figure


def draw_heatmap(chart: Heatmap) -> Figure:
    """Draw a heatmap whose rows and columns have long names, without a color bar."""
    rows, columns = chart.values.shape
    size = (1.6 + _NAMED_CELL * columns, 1.6 + _NAMED_CELL * rows)
    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09)
    figure = Figure(figsize=size, facecolor="white", layout=layout)
    axes = figure.add_subplot()
    _draw_cells(axes, chart, _NAMED_CELL)
    axes.set_xticks(range(columns), list(chart.column_labels), rotation=40, ha="right")
    axes.tick_params(length=0, labelsize=8)
    return figure


def _extent(heatmap: Heatmap, axis: int, cell: float) -> float:
    """Return the space for a heatmap in one direction; a single cell has axis titles too."""
    return max(heatmap.values.shape[axis] * cell, _LEAST_PLOT)


def _cell_size(most_cells: int) -> float:
    return min(max(3.4 / most_cells, 0.42), _LEAST_PLOT)


def _draw_cells(axes: Axes, heatmap: Heatmap, cell: float) -> None:
    rows, columns = heatmap.values.shape
    low, high = heatmap.limits
    axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(heatmap.values),
        cmap=color_map(low, high),
        norm=Normalize(low, high),
        edgecolors="white",
        linewidth=0.6,
    )
    for i, j, state in heatmap.empty_cells():
        axes.add_patch(
            Rectangle(
                (j - 0.5, i - 0.5),
                1,
                1,
                facecolor="white" if state == "failed" else "#e4e4e4",
                edgecolor="#a0a0a0",
                linewidth=0.5,
                hatch=None if state == "failed" else "////",
            )
        )
    size = min(max(cell * 16, 6.8), 11.0)
    for i, j in np.ndindex(rows, columns):
        text, value = heatmap.texts[i][j], float(heatmap.values[i, j])
        color = "black" if np.isnan(value) else cell_colors(value, low, high)[1]
        if text:
            axes.text(j, i, text, size=size, color=color, ha="center", va="center")
    axes.set_xticks(range(columns), list(heatmap.column_labels))
    axes.set_yticks(range(rows), list(heatmap.row_labels))
    axes.tick_params(length=0, labelsize=min(size, 9.0))
    axes.set_xlabel(heatmap.column_title, size=9)
    # A centered label beside a low matrix would run into the title.
    axes.set_ylabel(heatmap.row_title, size=9, loc="center" if rows * cell > 1 else "top")
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.spines[:].set_visible(False)


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, bottom / h, width / w, height / h))


def _draw_color_bar(axes: Axes, heatmap: Heatmap, height: float) -> None:
    scale = ScalarMappable(Normalize(*heatmap.limits), color_map(*heatmap.limits))
    bar = axes.figure.colorbar(scale, cax=axes, ticks=MaxNLocator(5 if height > 1.6 else 2))
    bar.set_label(heatmap.value_title, size=9)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)
