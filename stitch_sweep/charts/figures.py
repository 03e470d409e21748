"""Matrices as pictures. Figures are made without pyplot, so nothing global is left behind."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from stitch_sweep.analysis.matrix.matrices import Matrix
from stitch_sweep.charts.captions import legend, number, subtitle
from stitch_sweep.charts.colors import COLOUR_MAP, cell_colours, value_range
from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.files import write_atomically

# Lengths in inches: sizes follow from the cells, so that numbers are legible at any layer count.
_LEFT, _BOTTOM = 0.75, 0.6
_GAP, _BAR, _BAR_LABELS = 0.25, 0.16, 0.75
_EDGE = 0.15
_LEAST_PLOT = 1.1
_NARROWEST = 4.4

_HEADING, _TITLE, _PANEL_TITLE, _SMALL = 12.5, 11.0, 9.5, 8.5
_FAINT = "#555555"


class _Text:
    """Lines of one size, wrapped to a width; knows the height it takes."""

    def __init__(self, lines: Sequence[str], size: float, width: float) -> None:
        # A character of matplotlib's own font is about 0.6 of its size wide.
        per_line = max(int(width * 72 / (0.6 * size)), 12)
        self.lines = [part for line in lines for part in textwrap.wrap(line, per_line)]
        self.size = size
        self.height = len(self.lines) * size * 1.35 / 72

    def draw(self, figure: Figure, left: float, top: float, colour: str, weight: str) -> None:
        width, height = figure.get_size_inches()
        figure.text(
            left / width,
            top / height,
            "\n".join(self.lines),
            size=self.size,
            color=colour,
            weight=weight,
            va="top",
            linespacing=1.25,
            # A "$" in a network's name is a dollar sign, not a formula.
            parse_math=False,
        )


def _extent(matrix: Matrix, axis: int, cell: float) -> float:
    """Space for a matrix in one direction; axis labels need some even beside a single cell."""
    return max(matrix.values.shape[axis] * cell, _LEAST_PLOT)


def _cell_size(most: int) -> float:
    return min(max(3.4 / most, 0.42), _LEAST_PLOT)


def _draw_cells(axes: Axes, matrix: Matrix, low: float, high: float, cell: float) -> None:
    values = matrix.values.to_numpy()
    rows, columns = values.shape
    axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=COLOUR_MAP,
        norm=Normalize(low, high),
        edgecolors="white",
        linewidth=0.6,
    )
    size = min(max(cell * 16, 6.8), 11.0)
    unconverged = matrix.unconverged.to_numpy()
    failed = matrix.failed.to_numpy()
    for i, j in np.ndindex(rows, columns):
        if np.isfinite(values[i, j]):
            value = float(values[i, j])
            text = number(value) + ("*" if unconverged[i, j] else "")
            colour = cell_colours(value, low, high)[1]
        else:
            axes.add_patch(
                Rectangle(
                    (j - 0.5, i - 0.5),
                    1,
                    1,
                    facecolor="white" if failed[i, j] else "#e4e4e4",
                    edgecolor="#a0a0a0",
                    linewidth=0.5,
                    hatch=None if failed[i, j] else "////",
                )
            )
            text, colour = ("×" if failed[i, j] else ""), "black"
        if text:
            axes.text(j, i, text, size=size, color=colour, ha="center", va="center")
    axes.set_xticks(range(columns), [str(layer) for layer in matrix.values.columns])
    axes.set_yticks(range(rows), [str(layer) for layer in matrix.values.index])
    axes.tick_params(length=0, labelsize=min(size, 9.0))
    axes.set_xlabel(matrix.axes[1], size=9)
    # Beside a low matrix a centred label would run into the title.
    axes.set_ylabel(matrix.axes[0], size=9, loc="center" if rows * cell > 1 else "top")
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.spines[:].set_visible(False)


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, bottom / h, width / w, height / h))


def _colour_bar(axes: Axes, matrices: Sequence[Matrix], height: float) -> None:
    low, high = value_range(matrices)
    scale = ScalarMappable(Normalize(low, high), colormaps[COLOUR_MAP])
    bar = axes.figure.colorbar(scale, cax=axes, ticks=MaxNLocator(5 if height > 1.6 else 2))
    bar.set_label(matrices[0].value_label, size=9)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def heatmap(matrix: Matrix) -> Figure:
    """Draw a matrix: a coloured cell with its number per sender layer (row) and receiver layer.

    Accuracies share one scale, 0 to 1. Cells that were not run are hatched grey, failed ones show
    ×, a number whose stitch did not converge has an asterisk; a footnote explains what occurs.

    Args:
        matrix: of any shape from 1 x 1; the figure grows with it.

    Returns:
        A figure that pyplot doesn't know of; `save_figure` writes it.

    Example:
        >>> save_figure(heatmap(matrix), "figures", matrix.file_name)  # doctest: +SKIP
    """
    return _panels([matrix], columns=1, heading=None)


def grid(matrices: Sequence[Matrix], columns: int = 3, heading: str | None = None) -> Figure:
    """Draw several matrices of one kind of value beside each other, with one colour scale.

    Args:
        matrices: at least one; they may differ in shape.
        columns: the most that stand in one row.
        heading: a line above all of them.

    Raises:
        ValueError: no matrices, no columns, or matrices of different kinds of values.
    """
    if not matrices or columns < 1:
        raise ValueError("grid needs at least one matrix and one column")
    names = sorted({matrix.value_name for matrix in matrices})
    if len(names) > 1:
        raise ValueError(f"one colour scale can't show different values: {', '.join(names)}")
    return _panels(matrices, columns=min(columns, len(matrices)), heading=heading)


def _panels(matrices: Sequence[Matrix], columns: int, heading: str | None) -> Figure:
    low, high = value_range(matrices)
    alone = len(matrices) == 1
    cell = _cell_size(max(max(matrix.values.shape) for matrix in matrices))
    across = [matrices[column::columns] for column in range(columns)]
    down = [matrices[start : start + columns] for start in range(0, len(matrices), columns)]
    plot_widths = [max(_extent(m, 1, cell) for m in group) for group in across]
    plot_heights = [max(_extent(m, 0, cell) for m in group) for group in down]
    lefts = [sum(plot_widths[:k]) + k * (_LEFT + _EDGE) for k in range(columns + 1)]
    width = max(lefts[-1] - _EDGE + _GAP + _BAR + _BAR_LABELS, _NARROWEST)

    def caption(k: int) -> tuple[_Text, _Text]:
        # A lone matrix may use the space above the colour bar too.
        room = (width if alone else lefts[k % columns + 1] - lefts[k % columns]) - 2 * _EDGE
        title = _Text([matrices[k].title], _TITLE if alone else _PANEL_TITLE, room)
        return title, _Text([subtitle(matrices[k])], _SMALL, room)

    captions = [caption(k) for k in range(len(matrices))]
    above = [
        0.1 + max(title.height + below.height for title, below in captions[start : start + columns])
        for start in range(0, len(matrices), columns)
    ]
    layers, *marks = legend(matrices, missing="hatched cells")
    foot = _Text([layers, "; ".join(marks)], _SMALL, width - 2 * _EDGE)
    head = _Text([heading] if heading else [], _HEADING, width - 2 * _EDGE)
    top = _EDGE + head.height + (0.1 if heading else 0)
    height = top + sum(above) + sum(plot_heights) + len(down) * _BOTTOM + foot.height + _EDGE

    figure = Figure(figsize=(width, height), facecolor="white")
    head.draw(figure, _EDGE, height - _EDGE, "black", "bold")
    for k, matrix in enumerate(matrices):
        row, column = divmod(k, columns)
        ceiling = height - top - sum(above[:row]) - sum(plot_heights[:row]) - row * _BOTTOM
        title, below = captions[k]
        title.draw(figure, lefts[column] + _EDGE, ceiling, "black", "bold")
        below.draw(figure, lefts[column] + _EDGE, ceiling - title.height, _FAINT, "normal")
        rows_high, columns_wide = (count * cell for count in matrix.values.shape)
        bottom = ceiling - above[row] - rows_high
        axes = _place(figure, lefts[column] + _LEFT, bottom, columns_wide, rows_high)
        _draw_cells(axes, matrix, low, high, cell)
    bottom = height - top - above[0] - plot_heights[0]
    bar = _place(figure, lefts[-1] - _EDGE + _GAP, bottom, _BAR, plot_heights[0])
    _colour_bar(bar, matrices, plot_heights[0])
    foot.draw(figure, _EDGE, _EDGE + foot.height, _FAINT, "normal")
    return figure


def save_figure(figure: Figure, folder: str | Path, name: str, *, pdf: bool = False) -> Path:
    """Write a figure as `<name>.png` (150 dpi), each file replaced in one step.

    Args:
        figure: what to write.
        folder: where; made if needed.
        name: the file's name without suffix: letters, digits, `.`, `_`, `-`.
        pdf: write `<name>.pdf` too, without a date, so that it is the same each time.

    Returns:
        The PNG's path.

    Raises:
        InputError: the name is not a plain file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise InputError(
            f"figure name {name!r}: only letters, digits, '.', '_' and '-' are allowed"
        )
    for suffix in ["png", "pdf"] if pdf else ["png"]:
        picture = io.BytesIO()
        dated = {"CreationDate": None} if suffix == "pdf" else None
        # TrueType fonts: publishers refuse matplotlib's default, Type 3.
        with rc_context({"pdf.fonttype": 42}):
            figure.savefig(picture, format=suffix, dpi=150, metadata=dated)
        write_atomically(Path(folder) / f"{name}.{suffix}", picture.getvalue())
    return Path(folder) / f"{name}.png"
