"""Sanity findings for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from stitch_sweep.checks.sanity.catalog import CHECKS, TINY
from stitch_sweep.checks.sanity.findings import Finding, SanityReport

_STYLES = {"pass": "green", "fail": "bold red", "warn": "yellow", "skip": "dim"}


def findings_table(report: SanityReport) -> Table:
    """Return a table with one row per check: the configuration's networks, and the tiny ones."""
    table = Table(
        *("check", "compared", "difference", "verdict", "little"),
        caption="difference: the largest one found; verdict: for the configuration's networks; "
        "little: of the same check on tiny untrained networks",
        caption_justify="left",
    )
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    findings = {finding.name: finding for finding in report.findings}
    for name in CHECKS:
        finding, tiny = findings.get(name), findings.get(TINY + name)
        if (described := finding or tiny) is None:
            continue
        gap = "" if finding is None or finding.difference is None else f"{finding.difference:.3g}"
        table.add_row(name, described.compared, gap, *map(_styled_verdict, (finding, tiny)))
    return table


def details(report: SanityReport) -> Iterator[str]:
    """Yield a line for every finding with a detail; tiny networks only where a check didn't pass."""
    for finding in report.findings:
        is_tiny = finding.name.startswith(TINY)
        if finding.detail and (finding.verdict != "pass" or not is_tiny):
            yield f"{finding.name}: {finding.detail}"


def _styled_verdict(finding: Finding | None) -> Text:
    return Text() if finding is None else Text(finding.verdict, style=_STYLES[finding.verdict])
