"""Tables of matrices: verdicts, ladders and knocked-out layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from stitch_sweep.analysis.matrix.knock_out import by_removed
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.analysis.results import CELL, FACTOR
from stitch_sweep.core.measures import BEYOND_LOGITS, short_title
from stitch_sweep.report.findings import (
    Findings,
    Ladder,
    counted_cells,
    headline,
    makes_images,
    mean_accuracy,
)
from stitch_sweep.report.tables.formats import (
    fixed,
    format_interval,
    format_p_value,
    format_whole,
    pair_columns,
)
from stitch_sweep.report.tables.table import Column, Table

_INDICES = ("triangle", "diagonal", "order")

VERDICT_NOTE = (
    "Triangle index L − U, diagonal index D − max(L, U), order parameter (L − U)/(D − U), with "
    "their intervals; L, D and U are the mean rescaled accuracies below, in and above the band "
    "of equal depth. p tests the hypothesis that rows and columns have effects without interaction. "
    "Mean accuracies are over layers from 0 on, without the image's row and column."
)
EXCESS_NOTE = (
    "Accuracy with the sender's layer minus accuracy with the log-probabilities of its linear probe, on "
    "the same test images, with the interval of the paired difference."
)


def verdict_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Build a row per matrix: label, indices with intervals, and the numbers behind them."""
    rows = []
    for verdict in verdicts:
        matrix, parameters = verdict.matrix, verdict.parameters
        row: dict[str, Any] = {
            "sender": matrix.sender,
            "receiver": matrix.receiver,
            **{f"{FACTOR}{k}": v for k, v in matrix.factors.items()},
            "value": matrix.value_name,
            "label": headline(verdict),
            "mean_accuracy": mean_accuracy(verdict),
            "lower": parameters.lower,
            "band": parameters.band,
            "upper": parameters.upper,
        }
        for name in _INDICES:
            interval = verdict.intervals.get(name)
            row[name] = getattr(parameters, name)
            row[f"{name}_low"] = math.nan if interval is None else interval.low
            row[f"{name}_high"] = math.nan if interval is None else interval.high
        row |= {
            "label_share": None
            if makes_images(matrix)
            else verdict.label_shares.get(verdict.label),
            "p_value": verdict.p_value,
            "cells": _count_cells(matrix, matrix.values.notna()),
            "unconverged": _count_cells(matrix, matrix.unconverged),
            "failed": _count_cells(matrix, matrix.failed),
            "missing": _count_cells(matrix, matrix.missing),
            "control": verdict.control,
            "explained_by": ", ".join(verdict.explained_by) or None,
            "sender_accuracy": matrix.sender_accuracy,
            "receiver_accuracy": matrix.receiver_accuracy,
            "receiver_free": " ".join(map(str, sorted(matrix.receiver_free))) or None,
            **_reduced_columns(verdict.reduced),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _reduced_columns(reduced: Verdict | None) -> dict[str, Any]:
    """Return the columns of the judgment without receiver-free columns."""
    numbers = ("lower", "band", "upper", *_INDICES)
    values = {
        f"reduced_{name}": math.nan if reduced is None else getattr(reduced.parameters, name)
        for name in numbers
    }
    return {"reduced_label": None if reduced is None else reduced.label, **values}


def _count_cells(matrix: Matrix, is_counted: pd.DataFrame) -> int:
    return int(counted_cells(matrix, is_counted).to_numpy().sum())


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Build the table of matrices, a row each."""
    frame = verdict_frame(verdicts)
    for name in _INDICES:
        frame[f"{name}_interval"] = [
            format_interval(low, high)
            for low, high in zip(frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
        ]
    values = [Column("value", "value", short_title)] if frame["value"].nunique() > 1 else []
    columns = [*pair_columns(frame), *values, Column("label", "label")]
    for name in _INDICES:
        columns.append(Column(name, name, fixed(2), number=True))
        columns.append(Column(f"{name}_interval", "interval"))
    columns += [
        Column("p_value", "p", format_p_value, number=True),
        Column("mean_accuracy", "mean accuracy", fixed(3), number=True),
    ]
    return Table("verdicts", "Shape of every matrix", VERDICT_NOTE, frame, columns)


def excess_table(excesses: Sequence[Verdict]) -> Table | None:
    """Build the table of what cells reach beyond their logits-only control, a row each."""
    if not excesses:
        return None
    frame = pd.concat([_excess_cells(verdict) for verdict in excesses], ignore_index=True)
    frame["interval"] = [
        format_interval(low, high) for low, high in zip(frame["low"], frame["high"], strict=True)
    ]
    columns = [
        *pair_columns(frame),
        Column("sender_layer", "sender layer", format_whole, number=True),
        Column("receiver_layer", "receiver layer", format_whole, number=True),
        Column(BEYOND_LOGITS, short_title(BEYOND_LOGITS), fixed(3), number=True),
        Column("interval", "interval"),
    ]
    return Table("beyond_logits", "Beyond the logits-only control", EXCESS_NOTE, frame, columns)


def _excess_cells(verdict: Verdict) -> pd.DataFrame:
    """Return a row per cell with a value: the excess and its interval."""
    matrix = verdict.matrix
    tables = {BEYOND_LOGITS: matrix.values}
    if verdict.cell_intervals is not None:
        tables["low"], tables["high"] = verdict.cell_intervals
    cells = pd.DataFrame({name: table.stack() for name, table in tables.items()})
    cells = cells.reindex(columns=[BEYOND_LOGITS, "low", "high"]).dropna(subset=BEYOND_LOGITS)
    cells = cells.rename_axis(CELL).reset_index()
    factors = {f"{FACTOR}{k}": v for k, v in matrix.factors.items()}
    return cells.assign(sender=matrix.sender, receiver=matrix.receiver, **factors)


def ladder_table(ladder: Ladder) -> Table:
    """Build the table of a ladder's points."""
    frame = ladder.points.copy()
    frame["interval"] = [
        format_interval(low, high) for low, high in zip(frame["low"], frame["high"], strict=True)
    ]
    columns = [
        *([Column("series", "series")] if (frame["series"] != "").any() else []),
        Column("sender", "sender"),
        Column("receiver", "receiver"),
        Column("size", ladder.size, format_whole, number=True),
        Column("order", "order parameter", fixed(2), number=True),
        Column("interval", "interval"),
        Column("triangle", "triangle", fixed(2), number=True),
        Column("diagonal", "diagonal", fixed(2), number=True),
        Column("label", "label"),
    ]
    return Table(f"ladder_{ladder.size}", f"The ladder over {ladder.size}", "", frame, columns)


def gap_table(findings: Findings) -> Table | None:
    """Build the table of accuracies without some layers, a row per number of layers."""
    gaps = findings.gaps
    if not gaps:
        return None
    frame = pd.concat(
        [
            by_removed(matrix).assign(network=matrix.sender, factors=matrix.factor_text)
            for matrix in gaps
        ],
        ignore_index=True,
    )
    columns = [
        Column("network", "network"),
        *([Column("factors", "factors")] if frame["factors"].any() else []),
        Column("layers_removed", "layers removed", format_whole, number=True),
        Column("mean", "mean", fixed(3), number=True),
        Column("lowest", "lowest", fixed(3), number=True),
        Column("lowest_first", "from layer", format_whole, number=True),
        Column("highest", "highest", fixed(3), number=True),
    ]
    note = (
        "Accuracy with a stitch in place of some layers, over all positions of that many layers; the "
        "lowest is shown with the first removed layer."
    )
    return Table("knock_out", "Without some of its layers", note, frame, columns)
