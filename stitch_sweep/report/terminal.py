"""What `stitch-sweep analyze` prints: labels, indices, doubts, and where the report is."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.report.findings import headline, mean_accuracy
from stitch_sweep.report.terminal_tables import matrix_table
from stitch_sweep.report.words import what_the_verdicts_say, what_was_run
from stitch_sweep.report.writing import Report


def show(report: Report, console: Console) -> None:
    """Print a report's summary.

    Args:
        report: as `analyze` returned it.
        console: where to.
    """
    for findings, doubts in zip(report.findings, report.doubts, strict=True):
        if findings.experiment is None:
            console.print(matrix_table(findings.verdicts[0].matrix))
            console.print()
        else:
            console.print(Text(findings.experiment.name, style="bold"))
        console.print(Text(what_was_run(findings)))
        for grid in _grids(findings.verdicts):
            console.print(grid)
        for said in what_the_verdicts_say(findings, {}):
            subject = said.subject.replace("→", "->")
            console.print(Text(f"{subject}: {said.shape}{said.text}"))
        for verdict in findings.verdicts if findings.experiment is None else []:
            for note in verdict.notes:
                console.print(Text(f"- {note}", style="dim"))
        for text in doubts:
            console.print(Text(f"- {text}", style="dim"))
        console.print()
    if report.page is not None:
        console.print(
            f"Report: {report.page}; figures (PNG, PDF) and tables (CSV, LaTeX) are beside it",
            soft_wrap=True,
        )
    if report.sent:
        console.print(f"{report.sent} files are attached to the sweep's MLflow run")


def _grids(verdicts: list[Verdict]) -> list[Grid]:
    """A table for each combination of crossed factors: these are too long to stand in a column."""
    series: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        series.setdefault(verdict.matrix.factor_text, []).append(verdict)
    return [_grid(factors, members) for factors, members in series.items()]


def _grid(factors: str, verdicts: list[Verdict]) -> Grid:
    grid = Grid(
        *("matrix", "shape"),
        title=Text(factors) if factors else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("triangle", "diagonal", "order", "mean"):
        grid.add_column(name, justify="right", no_wrap=True)
    for verdict in verdicts:
        matrix, mean = verdict.matrix, mean_accuracy(verdict)
        indices = (_index(verdict, index) for index in ("triangle", "diagonal", "order"))
        grid.add_row(
            Text(f"{matrix.sender} -> {matrix.receiver}"),
            Text(headline(verdict)),
            *indices,
            "-" if math.isnan(mean) else f"{mean:.3f}",
        )
    return grid


def _index(verdict: Verdict, name: str) -> str:
    """An index, and its interval below it, narrow enough for six columns on 80 characters."""
    value = getattr(verdict.parameters, name)
    if math.isnan(value):
        return "-"
    interval = verdict.intervals.get(name)
    if interval is None or math.isnan(interval.low):
        return f"{value:z.2f}"
    return f"{value:z.2f}\n{interval.low:z.2f}..{interval.high:z.2f}"
