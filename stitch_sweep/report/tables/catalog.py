"""All tables of a report, in order."""

from __future__ import annotations

from stitch_sweep.report.findings import Findings
from stitch_sweep.report.tables.losses import (
    agreement_table,
    decision_table,
    hacking_table,
    measure_table,
    representation_table,
    task_table,
)
from stitch_sweep.report.tables.matrices import (
    excess_table,
    gap_table,
    ladder_table,
    verdict_table,
)
from stitch_sweep.report.tables.networks import network_table, probe_table
from stitch_sweep.report.tables.search import front_table, importance_table, stopped_table
from stitch_sweep.report.tables.table import Table


def all_tables(findings: Findings) -> list[Table]:
    """Build every table that the findings allow."""
    tables = [
        verdict_table([*findings.verdicts, *findings.excesses]),
        excess_table(findings.excesses),
        *map(ladder_table, findings.ladders),
        representation_table(findings),
        measure_table(findings),
        task_table(findings),
        hacking_table(findings),
        agreement_table(findings),
        decision_table(findings),
        network_table(findings),
        probe_table(findings),
        importance_table(findings),
        stopped_table(findings),
        front_table(findings),
        gap_table(findings),
    ]
    return [table for table in tables if table is not None]
