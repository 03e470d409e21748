"""The output of `stitch-sweep analyze`: labels, indices, doubts, and the report's path."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.report.findings import Findings, headline, mean_accuracy
from stitch_sweep.report.summary import describe_run, describe_verdicts
from stitch_sweep.report.terminal_tables import matrix_table
from stitch_sweep.report.writing import Report

MOST_DOUBTS = 3
"""Doubts that are printed at the end of a sweep."""


def show(report: Report, console: Console) -> None:
    """Print a report's summary.

    Args:
        report: the report of `analyze` or `analyze_matrix`.
        console: the output.
    """
    for findings, doubts in zip(report.findings, report.doubts, strict=True):
        if findings.experiment is None:
            console.print(matrix_table(findings.verdicts[0].matrix))
            console.print()
        else:
            console.print(Text(findings.experiment.name, style="bold"))
        console.print(Text(describe_run(findings)))
        for table in _tables_by_series([*findings.verdicts, *findings.excesses]):
            console.print(table)
        _show_statements(findings, console)
        for verdict in findings.verdicts if findings.experiment is None else []:
            for note in verdict.notes:
                console.print(Text(f"- {note}", style="dim"))
        _show_doubts(doubts, console)
        console.print()
    if report.page is not None:
        console.print(
            f"Report: {report.page}; figures (PNG, PDF) and tables (CSV, LaTeX) are beside it",
            soft_wrap=True,
        )
    if report.sent:
        console.print(f"{report.sent} files are attached to the sweep's MLflow run")


def show_verdicts(report: Report, console: Console) -> None:
    """Print a sentence about every matrix of a report, and the most important doubts."""
    for findings, doubts in zip(report.findings, report.doubts, strict=True):
        _show_statements(findings, console)
        _show_doubts(doubts[:MOST_DOUBTS], console)
        if (hidden := len(doubts) - MOST_DOUBTS) > 0:
            console.print(Text(f"- and {hidden} more in the report", style="dim"))


def _show_statements(findings: Findings, console: Console) -> None:
    for statement in describe_verdicts(findings, {}):
        subject = statement.subject.replace("→", "->")
        console.print(Text(f"{subject}: {statement.shape}{statement.text}"))


def _show_doubts(doubts: list[str], console: Console) -> None:
    for text in doubts:
        console.print(Text(f"- {text}", style="dim"))


def _tables_by_series(verdicts: list[Verdict]) -> list[Table]:
    """Build a table per combination of crossed factors: their names are too long for a column."""
    series: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        series.setdefault(verdict.matrix.series, []).append(verdict)
    return [_table(factors, members) for factors, members in series.items()]


def _table(factors: str, verdicts: list[Verdict]) -> Table:
    table = Table(
        *("matrix", "shape"),
        title=Text(factors) if factors else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("triangle", "diagonal", "order", "mean"):
        table.add_column(name, justify="right", no_wrap=True)
    for verdict in verdicts:
        matrix, mean = verdict.matrix, mean_accuracy(verdict)
        indices = (_format_index(verdict, index) for index in ("triangle", "diagonal", "order"))
        table.add_row(
            Text(f"{matrix.sender} -> {matrix.receiver}"),
            Text(headline(verdict)),
            *indices,
            "-" if math.isnan(mean) else f"{mean:.3f}",
        )
    return table


def _format_index(verdict: Verdict, name: str) -> str:
    """Format an index with its interval below, so that six columns fit into 80 characters."""
    value = getattr(verdict.parameters, name)
    if math.isnan(value):
        return "-"
    interval = verdict.intervals.get(name)
    if interval is None or math.isnan(interval.low):
        return f"{value:z.2f}"
    return f"{value:z.2f}\n{interval.low:z.2f}..{interval.high:z.2f}"
