"""The table that compares the matrices of several experiments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from stitch_sweep.report.findings import Findings, headline, mean_accuracy
from stitch_sweep.report.tables.formats import fixed
from stitch_sweep.report.tables.table import Column, Table


def comparison_table(all_findings: Sequence[Findings]) -> Table:
    """Build the table of the matrices of several experiments side by side.

    Args:
        all_findings: the findings of at least two experiments.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    names = _number_duplicates(
        [f.experiment.name for f in all_findings if f.experiment is not None]
    )
    for name, findings in zip(names, all_findings, strict=True):
        for verdict in findings.verdicts:
            matrix = verdict.matrix
            row = rows.setdefault((matrix.sender, matrix.receiver, matrix.factor_text), {})
            row |= {
                f"{name}: label": headline(verdict),
                f"{name}: triangle": verdict.parameters.triangle,
                f"{name}: diagonal": verdict.parameters.diagonal,
                f"{name}: mean accuracy": mean_accuracy(verdict),
            }
    frame = pd.DataFrame(
        [
            {"sender": sender, "receiver": receiver, "factors": factors, **row}
            for (sender, receiver, factors), row in rows.items()
        ]
    )
    columns = [Column("sender", "sender"), Column("receiver", "receiver")]
    if (frame["factors"] != "").any():
        columns.append(Column("factors", "factors"))
    for name in names:
        columns.append(Column(f"{name}: label", f"{name}: shape"))
        for value, digits in (("triangle", 2), ("diagonal", 2), ("mean accuracy", 3)):
            columns.append(Column(f"{name}: {value}", value, fixed(digits), number=True))
    note = "Matrices of the same names and factors share a row; their networks and data may differ."
    return Table("compared", "The experiments compared", note, frame, columns)


def _number_duplicates(names: Sequence[str]) -> list[str]:
    """Return the names; those that occur twice get a number."""
    return [
        name if list(names).count(name) == 1 else f"{name} ({k + 1})"
        for k, name in enumerate(names)
    ]
