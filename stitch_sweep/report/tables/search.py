"""Tables of the search: importances of settings, and fronts of several objectives."""

from __future__ import annotations

import pandas as pd

from stitch_sweep.analysis.comparison.pareto import pareto_front, pareto_table
from stitch_sweep.analysis.results import SETTING
from stitch_sweep.report.findings import Findings
from stitch_sweep.report.tables.formats import (
    factor_columns,
    fixed,
    format_significant,
    format_whole,
    pair_columns,
)
from stitch_sweep.report.tables.table import Column, Table
from stitch_sweep.report.terminal_tables import short_names
from stitch_sweep.report.wording import format_setting


def importance_table(findings: Findings) -> Table | None:
    """Build the table of importances of the searched settings."""
    experiment = findings.experiment
    frame = None if experiment is None else experiment.table("importances")
    if frame is None or frame.empty:
        return None
    columns = [
        *pair_columns(frame),
        Column("setting", "setting"),
        Column("importance", "importance", fixed(2), number=True),
        Column("p_value", "p", fixed(2), number=True),
        Column("studies", "studies", format_whole, number=True),
        Column("trials", "trials", format_whole, number=True),
    ]
    note = (
        "Importances sum to 1 within a group even if no setting mattered; p is the p-value of "
        "a permutation test of the importance."
    )
    if "evaluator" in frame:
        note = f"{frame['evaluator'].iloc[0]}. {note}"
    existing = [column for column in columns if column.name in frame.columns]
    return Table("importances", "Which settings mattered", note, frame, existing)


def group_names(frame: pd.DataFrame) -> list[str]:
    """Name the pair and factors of each row of importances."""
    factors = factor_columns(frame)
    return [
        ", ".join(
            [f"{row['sender']} → {row['receiver']}"]
            + [f"{c.title} = {row[c.name]}" for c in factors if not pd.isna(row[c.name])]
        )
        for row in frame.to_dict("records")
    ]


def stopped_table(findings: Findings) -> Table | None:
    """Build the table of the trials that the scheduler stopped; None if it stopped none."""
    experiment = findings.experiment
    if experiment is None or not (experiment.results["status"] == "stopped").any():
        return None
    results = experiment.results
    planned = pd.to_numeric(results["training.epochs"], errors="coerce")
    is_stopped = results["status"] == "stopped"
    trained = results["stopped_at"].astype("float64").where(is_stopped, planned)
    keys = [column.name for column in pair_columns(results)]
    frame = (
        results.assign(is_stopped=is_stopped, planned=planned, trained=trained)
        .groupby(keys, dropna=False)
        .agg(
            trials=("trial", "size"),
            stopped=("is_stopped", "sum"),
            planned_epochs=("planned", "sum"),
            trained_epochs=("trained", "sum"),
        )
        .reset_index()
    )
    frame["share_of_epochs"] = frame["trained_epochs"] / frame["planned_epochs"]
    columns = [
        *pair_columns(frame),
        Column("trials", "trials", format_whole, number=True),
        Column("stopped", "stopped", format_whole, number=True),
        Column("share_of_epochs", "epochs trained", fixed(2), number=True),
    ]
    note = (
        "Trials that the scheduler stopped before their end, and the share of all planned epochs that "
        "was trained. Stopped trials have a trajectory, and no test accuracy; no matrix contains them."
    )
    return Table("stopped", "Trials that were stopped early", note, frame, columns)


def front_table(findings: Findings) -> Table | None:
    """Build the table of non-dominated trials, if several objectives were searched."""
    experiment = findings.experiment
    if experiment is None or not (objectives := experiment.objectives):
        return None
    frame = pareto_table(pareto_front(experiment.results, objectives), objectives)
    if frame.empty:
        return None
    settings = short_names([str(n) for n in frame.columns if str(n).startswith(SETTING)])
    columns = [
        *pair_columns(frame),
        Column("sender_layer", "sender layer", format_whole, number=True),
        Column("receiver_layer", "receiver layer", format_whole, number=True),
        *(
            Column(n, f"{n} ({mode})", format_significant, number=True)
            for n, mode in objectives.items()
        ),
        *(Column(name, short, format_setting) for name, short in settings.items()),
    ]
    note = (
        "The non-dominated trials of each cell: no other trial of the cell is at least as good in "
        "every objective and better in one."
    )
    return Table("pareto", "The fronts of several objectives", note, frame, columns)
