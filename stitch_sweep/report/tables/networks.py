"""Tables of the networks and their linear probes."""

from __future__ import annotations

import pandas as pd

from stitch_sweep.report.findings import Findings
from stitch_sweep.report.tables.formats import fixed, format_whole
from stitch_sweep.report.tables.table import Column, Table


def network_table(findings: Findings) -> Table | None:
    """Build the table of networks, a row each."""
    experiment = findings.experiment
    networks = None if experiment is None else experiment.table("networks")
    if networks is None or networks.empty:
        return None
    frame = networks.drop(columns=[c for c in ("predictions", "layers") if c in networks.columns])
    columns = [
        Column("network", "network"),
        Column("family", "family"),
        Column("weights", "weights"),
        Column("seed", "seed", number=True),
        Column("depth", "depth", format_whole, number=True),
        Column("width", "width", format_whole, number=True),
        Column("parameters", "parameters", format_whole, number=True),
        Column("test_accuracy", "test accuracy", fixed(3), number=True),
    ]
    note = "Depth is the number of layers after the first; width is the family's option."
    return Table("networks", "The networks", note, frame, _select_existing(columns, frame))


def probe_table(findings: Findings) -> Table | None:
    """Build the table of linear probes, a row per network and layer."""
    experiment = findings.experiment
    frame = None if experiment is None else experiment.table("probes")
    if frame is None or frame.empty:
        return None
    columns = [
        Column("network", "network"),
        Column("layer", "layer", format_whole, number=True),
        Column("train_accuracy", "training", fixed(3), number=True),
        Column("val_accuracy", "validation", fixed(3), number=True),
        Column("test_accuracy", "test", fixed(3), number=True),
    ]
    note = "Test accuracy of a linear classifier on each layer's representation."
    return Table("probes", "Linear probes", note, frame, _select_existing(columns, frame))


def _select_existing(columns: list[Column], frame: pd.DataFrame) -> list[Column]:
    return [column for column in columns if column.name in frame.columns]
