"""Tables that compare losses, measures and representations."""

from __future__ import annotations

import math

import pandas as pd

from stitch_sweep.analysis.comparison.losses import identity_columns
from stitch_sweep.analysis.matrix.order_parameters import REGIONS
from stitch_sweep.analysis.matrix.verdict import CONTROL_TITLES
from stitch_sweep.analysis.results import FACTOR, PAIR
from stitch_sweep.core.measures import SIMILARITIES, short_title
from stitch_sweep.report.findings import Findings, from_layer_zero
from stitch_sweep.report.tables.formats import (
    fixed,
    format_significant,
    format_whole,
    pair_columns,
)
from stitch_sweep.report.tables.table import Column, Table

_REGION_NOTE = (
    "Means ± standard errors over the cells below, in and above the band of equal depth; a single "
    "cell has no error."
)


def region_table(frame: pd.DataFrame, name: str, title: str, note: str) -> Table:
    """Build a table of means by region.

    Args:
        frame: as `comparison.regional.regional` returns it.
        name: file name without suffix.
        title: the table's title.
        note: how to read it.
    """
    loss = "similarity_loss" if "similarity_loss" in frame else "loss"
    factors = [c for c in identity_columns(frame) if frame[c].notna().any()]
    keys = [*PAIR, *factors, loss, "quantity"]
    texts = frame.assign(**{key: frame[key].astype("object") for key in keys})
    wide = texts.pivot_table(
        index=keys, columns="region", values=["mean", "standard_error"], sort=False, dropna=False
    )
    wide.columns = pd.Index([_region_column(*pair) for pair in wide.columns.to_flat_index()])
    rows = wide.reset_index()
    # If every region has one cell only, the frame has no column of errors.
    for region in REGIONS:
        if region in rows and (error := f"{region}_standard_error") not in rows:
            rows[error] = math.nan
    rows = rows.dropna(subset=[r for r in REGIONS if r in rows], how="all")
    columns = [
        *(Column(c, c.removeprefix(FACTOR)) for c in [*PAIR, *factors]),
        Column(loss, "loss"),
        Column("quantity", "quantity", short_title),
        *(
            Column(
                region, region, format_significant, number=True, error=f"{region}_standard_error"
            )
            for region in REGIONS
            if region in rows.columns
        ),
    ]
    return Table(name, title, note, rows.reset_index(drop=True), columns)


def _region_column(value: str, region: str) -> str:
    """Name the column of a region's mean or standard error."""
    return region if value == "mean" else f"{region}_{value}"


def representation_table(findings: Findings) -> Table | None:
    """Build the table of EV, ES and SV by region."""
    if findings.representations is None or findings.representations.empty:
        return None
    note = (
        "Mean squared differences between the receiver's expected representation (E), that of a "
        "task-trained stitch (V, vanilla) and that of a similarity-trained stitch (S), as in "
        "arXiv 2303.11277; relative ones are divided by the expected representation's variance. "
        "OOD: how well an energy detector tells V or S from E (area under the ROC curve, after arXiv "
        "2412.11299); 0.5 cannot be told apart. "
        f"{_REGION_NOTE}"
    )
    return region_table(
        findings.representations, "representations", "EV, ES and SV by region", note
    )


def measure_table(findings: Findings) -> Table | None:
    """Build the table of every measure by region."""
    if findings.measures is None or findings.measures.empty:
        return None
    note = (
        "Similarity of stitched and expected representation on validation images, by the loss that "
        f"the stitch was trained with. {_REGION_NOTE}"
    )
    return region_table(findings.measures, "measures", "When is similarity small?", note)


def task_table(findings: Findings) -> Table | None:
    """Build the table of every loss against the task loss, a row per matrix."""
    frame = findings.against_task
    if frame is None or frame.empty:
        return None
    columns = [
        *pair_columns(frame),
        Column("loss", "loss"),
        Column("cells", "cells", format_whole, number=True),
        Column("accuracy", "accuracy", fixed(3), number=True),
        Column("task_accuracy", "task's", fixed(3), number=True),
        Column("difference", "difference", fixed(3), number=True),
        Column("behind", "cells behind", lambda v: f"{float(v):.0%}", number=True),
        Column("spearman", "rank correlation", fixed(2), number=True),
    ]
    note = (
        "Mean calibrated test accuracies over the cells that both losses have; cells behind: the "
        "share in which the loss is more than 0.05 below the task loss; rank correlation "
        "(Spearman) of the two over cells."
    )
    return Table("losses", "Each loss against the task loss", note, frame, columns)


def hacking_table(findings: Findings) -> Table | None:
    """Build the table of cells that perform well, far from the expected representation."""
    if findings.hacking is None:
        return None
    frame = findings.hacking[findings.hacking["hacking"].fillna(False)]
    if frame.empty:
        return None
    frame = frame.sort_values("val_relative_mse", ascending=False, kind="stable")
    frame = pd.concat([frame[frame["control"].isna()], frame[frame["control"].notna()]])
    columns = [
        *pair_columns(frame),
        *(
            [Column("control", "control", CONTROL_TITLES.__getitem__)]
            if frame["control"].any()
            else []
        ),
        Column("loss", "loss"),
        Column("sender_layer", "sender layer", format_whole, number=True),
        Column("receiver_layer", "receiver layer", format_whole, number=True),
        Column("accuracy_calibrated", "accuracy", fixed(3), number=True),
        Column("rescaled", "rescaled", fixed(2), number=True),
        Column("val_relative_mse", "relative MSE", format_significant, number=True),
        Column("nearest", "nearest", format_significant, number=True),
        Column("nearest_loss", "of loss"),
    ]
    note = (
        "Rescaled accuracy of 0.9 or more, and a relative mean squared error to the expected "
        "representation of 1 or more: no nearer than a constant. Nearest: the smallest error that "
        "any loss reached in that cell. Controls come last; layers are those from 0 on."
    )
    return Table("hacking", "Performing well, far from the expected", note, frame, columns)


def agreement_table(findings: Findings) -> Table | None:
    """Build the table of agreement between stitched and original networks, a row per matrix."""
    if findings.agreement is None or findings.agreement.empty:
        return None
    table = from_layer_zero(findings.agreement)
    keys = [*PAIR, *identity_columns(table), "loss"]
    titles = {"sender": "with sender", "receiver": "with receiver", "own": "sender with receiver"}
    values = [f"{kind}_{partner}" for partner in titles for kind in ("agreement", "kappa")]
    frame = table.groupby(keys, dropna=False, sort=False)[values].mean().reset_index()
    columns = [
        *pair_columns(frame),
        Column("loss", "loss"),
        *(Column(f"agreement_{k}", v, fixed(3), number=True) for k, v in titles.items()),
        *(Column(f"kappa_{k}", f"κ, {v}", fixed(2), number=True) for k, v in titles.items()),
    ]
    note = (
        "Agreement: the share of test images for which both name the same class. Error consistency "
        "κ: how often they fail on the same images, compared with chance at their accuracies. Means "
        "over cells of layers from 0 on; tables/agreement_cells.csv has each cell."
    )
    return Table("agreement", "How similarly they decide", note, frame, columns)


def decision_table(findings: Findings) -> Table | None:
    """Build the table of error consistency with sender and with receiver by region."""
    if findings.decisions is None or findings.decisions.empty:
        return None
    note = (
        "Error consistency κ of the stitched network with its sender and with its receiver: how often "
        "they fail on the same images, compared with chance at their accuracies. Where κ with the "
        f"sender is higher, the stitched network decides as the sender does. {_REGION_NOTE}"
    )
    return region_table(findings.decisions, "decisions", "Whose decisions, by region", note)


def correlation_frame(findings: Findings) -> pd.DataFrame | None:
    """Build the square table of mean rank correlations between measures, over the pairs' matrices."""
    table = findings.correlations
    if table is None or table.empty or table["spearman"].isna().all():
        return None
    names = ["accuracy_calibrated", *(q for q in SIMILARITIES if (table == q).any().any())]
    square = pd.DataFrame(math.nan, index=names, columns=names)
    for name in names:
        square.at[name, name] = 1.0
    means = table.groupby(["first", "second"], sort=False)["spearman"].mean().reset_index()
    for first, second, value in means.to_numpy().tolist():
        square.at[first, second] = square.at[second, first] = value
    return square
