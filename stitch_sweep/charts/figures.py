"""Charts as matplotlib figures, and as PNG and PDF files. pyplot is not used, so no state is global."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.charts.elements import (
    BarChart,
    Chart,
    ChartRow,
    Heatmap,
    HeatmapGrid,
    ImageTable,
    LineChart,
)
from stitch_sweep.charts.matplotlib_charts import (
    draw_bars,
    draw_images,
    draw_lines,
    draw_row,
    draw_small_multiples,
)
from stitch_sweep.charts.matplotlib_heatmaps import draw_heatmap, draw_heatmap_grid
from stitch_sweep.charts.matrices import describe_matrices
from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.layout import FILE_STEM


def draw(chart: Chart) -> Figure:
    """Draw a chart with matplotlib."""
    match chart:
        case HeatmapGrid():
            return draw_heatmap_grid(chart)
        case Heatmap():
            return draw_heatmap(chart)
        case LineChart():
            return draw_lines(chart)
        case ChartRow():
            return draw_row(chart)
        case BarChart():
            return draw_bars(chart)
        case ImageTable():
            return draw_images(chart)
    return draw_small_multiples(chart)


def heatmap(matrix: Matrix) -> Figure:
    """Draw a matrix: a colored cell with its number per sender layer (row) and receiver layer.

    Accuracies share one scale, 0 to 1. Cells that were not run are hatched grey, failed ones show
    ×, a number whose stitch did not converge has an asterisk; a footnote explains the marks.

    Args:
        matrix: of any shape from 1 x 1 on; the figure grows with it.

    Returns:
        A figure for `save_figure`.

    Example:
        >>> save_figure(heatmap(matrix), "figures", matrix.file_name)  # doctest: +SKIP
    """
    return draw(describe_matrices([matrix], columns=1))


def grid(matrices: Sequence[Matrix], columns: int = 3, heading: str | None = None) -> Figure:
    """Draw several matrices of one kind of value side by side, with one color scale.

    Args:
        matrices: at least one; they may differ in shape.
        columns: the largest number of matrices in a row.
        heading: a line above all of them.

    Raises:
        ValueError: no matrices, no columns, or matrices of different kinds of values.
    """
    return draw(describe_matrices(matrices, columns, heading))


def save_figure(figure: Figure, folder: str | Path, name: str, *, pdf: bool = False) -> Path:
    """Write a figure as `<name>.png` (150 dpi); every file is replaced atomically.

    Args:
        figure: the figure.
        folder: the target folder; created if needed.
        name: the file name without suffix: letters, digits, `.`, `_`, `-`.
        pdf: whether to write `<name>.pdf` too. It contains no date, so equal figures have equal files.

    Returns:
        The PNG's path.

    Raises:
        InputError: the name is not a plain file name.
    """
    if not re.fullmatch(FILE_STEM, name):
        raise InputError(
            f"figure name {name!r}: only letters, digits, '.', '_' and '-' are allowed"
        )
    for suffix in ["png", "pdf"] if pdf else ["png"]:
        buffer = io.BytesIO()
        metadata = {"CreationDate": None} if suffix == "pdf" else None
        # TrueType fonts: publishers refuse matplotlib's default, Type 3.
        with rc_context({"pdf.fonttype": 42}):
            figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
        write_atomically(Path(folder) / f"{name}.{suffix}", buffer.getvalue())
    return Path(folder) / f"{name}.png"
