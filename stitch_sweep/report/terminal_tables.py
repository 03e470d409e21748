"""Matrices and best trials in the terminal, readable without color and in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.style import Style
from rich.table import Table
from rich.text import Text

from stitch_sweep.analysis.matrix.matrices import best_by_matrix
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.results import SETTING
from stitch_sweep.charts.captions import describe_networks, explain_marks, format_value
from stitch_sweep.charts.colors import cell_colors, value_range

_MISSING = "·"
_LABELS = len("sender ")
_SCALE = 24


class MatrixTable:
    """A matrix that rich can print; `matrix_table` makes it.

    A rich table can't break its columns into blocks, so the lines are laid out here.
    """

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        has_color = console.color_system is not None and not console.no_color
        for line in self._lines(options.max_width, has_color):
            if options.ascii_only:
                line.plain = line.plain.translate({0x2192: ">", 0xD7: "x", 0xB7: "."})
            yield line

    def _lines(self, width: int, has_color: bool) -> Iterator[Text]:
        matrix = self.matrix
        low, high = value_range([matrix])
        values = matrix.values.to_numpy()
        yield Text(matrix.title, style="bold")
        if networks := describe_networks(matrix):
            yield Text(networks, style="dim")
        yield Text()
        texts, step = self._cells(width)
        per_block = max((width - _LABELS) // step, 1)
        columns = list(matrix.values.columns)
        above, below = matrix.axes[0].split()
        for start in range(0, len(columns), per_block):
            shown = range(start, min(start + per_block, len(columns)))
            yield Text(f"{above.ljust(_LABELS)}{matrix.axes[1]}", style="dim")
            heads = "".join(f"{columns[j]} ".rjust(step) for j in shown)
            yield Text(below.ljust(_LABELS) + heads, style="dim", no_wrap=True)
            for i, layer in enumerate(matrix.values.index):
                line = Text(f"{layer}".rjust(5).ljust(_LABELS), no_wrap=True)
                for j in shown:
                    line.append(texts[i][j].rjust(step), _style(float(values[i, j]), low, high))
                yield line
            yield Text()
        scale = Text(f"{matrix.value_label} {format_value(low)} ")
        if has_color:
            for k in range(_SCALE):
                value = low + (high - low) * k / (_SCALE - 1)
                scale.append(" ", _style(value, low, high))
            scale.append(" ")
        else:
            scale.append("to ")
        scale.append(format_value(high))
        yield scale
        layers, *marks = explain_marks([matrix], missing=_MISSING)
        yield Text(layers, style="dim")
        if marks:
            yield Text("; ".join(marks), style="dim")

    def _cells(self, width: int) -> tuple[list[list[str]], int]:
        """Return the text of every cell, ending with a mark or a space, and the width of a column."""
        matrix = self.matrix
        shape = matrix.values.shape
        values, failed = matrix.values.to_numpy(), matrix.failed.to_numpy()
        unconverged = matrix.unconverged.to_numpy()
        heads = max(len(str(layer)) for layer in matrix.values.columns)

        def format_cells(short: bool) -> list[list[str]]:
            def format_cell(i: int, j: int) -> str:
                if np.isnan(values[i, j]):
                    return "× " if failed[i, j] else f"{_MISSING} "
                shown = format_value(values[i, j])
                if short:
                    shown = "1.0" if shown == "1.00" else shown.replace("0.", ".", 1)
                return shown + ("*" if unconverged[i, j] else " ")

            return [[format_cell(i, j) for j in range(shape[1])] for i in range(shape[0])]

        wide = format_cells(short=False)
        step = max(heads + 1, *(len(text) for row in wide for text in row)) + 1
        if _LABELS + step * shape[1] <= width:
            return wide, step
        # Without leading zeros and gaps, 17 layers fit side by side into 80 columns.
        narrow = format_cells(short=True)
        return narrow, max(heads + 1, *(len(text) for row in narrow for text in row))


def _style(value: float, low: float, high: float) -> Style:
    if np.isnan(value):
        return Style(dim=True)
    background, foreground = cell_colors(value, low, high)
    return Style(color=foreground, bgcolor=background)


def matrix_table(matrix: Matrix) -> MatrixTable:
    """Return a matrix for the terminal: sender layers by receiver layers, colored by value.

    The numbers are shown without color too. On a narrow terminal the columns move together, then
    break into blocks.

    Example:
        >>> rich.print(matrix_table(matrix))  # doctest: +SKIP
    """
    return MatrixTable(matrix)


def best_table(best: pd.DataFrame, max_rows: int = 12) -> Group:
    """Return a summary line per matrix, and the best trial of each cell if the list is short.

    Args:
        best: a row per study, as `best_trials` returns it.
        max_rows: largest number of cells that are listed; more cells are only counted.

    Returns:
        Tables for `rich.print`. Penalty is the receiver's own accuracy minus the stitched one.
    """
    names = short_names([str(c) for c in best.columns if str(c).startswith(SETTING)])
    groups = best_by_matrix(best)
    parts: list[Any] = [_summary(groups)]
    if len(best) <= max_rows:
        parts += [_cell_table(pair, factors, cells, names) for pair, factors, cells in groups]
    else:
        text = f"The best trial of each of the {len(best)} cells is in results.parquet."
        parts.append(Text(text, style="dim"))
    return Group(*parts)


def _summary(groups: list[tuple[tuple[str, str], dict[str, Any], pd.DataFrame]]) -> Table:
    table = Table(title="Best trials, per matrix", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("pair", overflow="fold")
    for name in ("cells", "mean", "min", "max", "penalty", "failed", "not conv."):
        table.add_column(name, justify="right", no_wrap=True)
    for pair, factors, cells in groups:
        # The image's row is a control: it is listed below, but is no part of the pair's means.
        cells = cells[cells["sender_layer"] >= 0]
        finished = cells[cells["status"] == "finished"]
        accuracy = finished["test_accuracy"]
        table.add_row(
            Text(
                "\n".join([f"{pair[0]} -> {pair[1]}", *(f"{k} = {v}" for k, v in factors.items())])
            ),
            str(len(cells)),
            *(_format(value) for value in (accuracy.mean(), accuracy.min(), accuracy.max())),
            _format(finished["penalty"].mean()),
            str(len(cells) - len(finished)),
            str(int((~finished["converged"].fillna(True).astype(bool)).sum())),
        )
    return table


def _cell_table(
    pair: tuple[str, str], factors: dict[str, Any], cells: pd.DataFrame, names: dict[str, str]
) -> Table:
    title = ", ".join([f"{pair[0]} -> {pair[1]}", *(f"{k} = {v}" for k, v in factors.items())])
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("layers", no_wrap=True)
    has_repeats = cells["repeat"].nunique() > 1
    if has_repeats:
        table.add_column("repeat", justify="right")
    table.add_column("test accuracy", justify="right")
    table.add_column("penalty", justify="right")
    table.add_column("converged")
    if names:
        table.add_column("settings of the best trial")
    for row in cells.to_dict("records"):
        is_finished = row["status"] == "finished"
        accuracy = Text("failed")
        if is_finished and not pd.isna(row["test_accuracy"]):
            value = float(row["test_accuracy"])
            accuracy = Text(f" {value:.3f} ", style=_style(value, 0.0, 1.0))
        converged = row["converged"]
        answer = "-" if not is_finished or pd.isna(converged) else "yes" if converged else "no"
        settings = {names[k]: row[k] for k in names if not pd.isna(row[k])}
        table.add_row(
            f"{row['sender_layer']:>2} -> {row['receiver_layer']}",
            *([str(row["repeat"])] if has_repeats else []),
            accuracy,
            _format(row["penalty"]) if is_finished else "-",
            answer,
            *(
                [Text(", ".join(f"{k} {_setting(v)}" for k, v in settings.items()))]
                if names
                else []
            ),
        )
    return table


def longer_table(summary: Iterable[Mapping[str, Any]], gain: float) -> Table:
    """Return a table of what trials gained from a longer training, a row per loss.

    Args:
        summary: rows of `Longer.summary`.
        gain: the gain above which a trial counts.
    """
    table = Table(
        caption=f"gain: of the calibrated test accuracy; yes, no, unknown: the sweep's `converged`; "
        f"3/20: 3 of 20 such trials gained more than {gain:g}",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("loss", overflow="fold")
    for name in ("trials", "failed", "median gain", "largest", "yes", "no", "unknown"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary:
        table.add_row(
            Text(row["loss"]),
            *(str(row[name]) for name in ("trials", "failed")),
            *(
                "-" if (g := row[f"{x}_gain"]) is None else f"{g:+.3f}"
                for x in ("median", "largest")
            ),
            *(f"{row[f'{answer}_gained']}/{row[answer]}" for answer in ("yes", "no", "unknown")),
        )
    return table


def _format(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


def _setting(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.3g}"
    return str(int(value)) if isinstance(value, float) else str(value)


def short_names(columns: list[str]) -> dict[str, str]:
    """Map every column to the shortest end of its dotted path that no other column shares."""
    paths = {column: column.removeprefix(SETTING).split(".") for column in columns}
    short = {}
    for column, path in paths.items():
        ends = (path[-k:] for k in range(1, len(path) + 1))
        short[column] = next(
            (
                ".".join(end)
                for end in ends
                if sum(other[-len(end) :] == end for other in paths.values()) == 1
            ),
            ".".join(path),
        )
    return short
