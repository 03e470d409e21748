"""The sections of a chapter that hold figures and tables: ladders, losses, networks, search."""

from __future__ import annotations

from collections.abc import Sequence

from stitch_sweep.charts.captions import describe_networks, explain_marks
from stitch_sweep.charts.colors import value_range
from stitch_sweep.charts.ladder import describe_ladder
from stitch_sweep.charts.matrices import describe_correlations, describe_matrix
from stitch_sweep.charts.networks import describe_probes
from stitch_sweep.charts.plotly_renderer import matrix_to_plotly, to_plotly
from stitch_sweep.charts.representations import describe_regions
from stitch_sweep.charts.search import describe_importances
from stitch_sweep.report.findings import Findings, Ladder
from stitch_sweep.report.page.data import PageData, Panel
from stitch_sweep.report.tables.losses import (
    agreement_table,
    correlation_frame,
    decision_table,
    hacking_table,
    measure_table,
    representation_table,
    task_table,
)
from stitch_sweep.report.tables.matrices import gap_table, ladder_table
from stitch_sweep.report.tables.networks import network_table, probe_table
from stitch_sweep.report.tables.search import (
    front_table,
    group_names,
    importance_table,
    stopped_table,
)
from stitch_sweep.report.tables.table import Table

Item = Table | Panel

_LADDER_NOTE = (
    "Each point is a matrix. Bars are its interval; a dashed line is a trend where no "
    "model is selected, a shaded range is the interval of a transition."
)
_OUTLIER_NOTE = (
    "How well an energy detector tells representations of a task-trained stitch, and of one that was "
    "trained for this loss, from the receiver's own: area under the ROC curve. 0.5 cannot be told apart."
)
_CORRELATION_NOTE = (
    "Spearman's rank correlation over the cells of a matrix, averaged over the matrices of "
    "pairs; controls and the image's row and column are not included. Distances count with the "
    "opposite sign: 1 always means that both measures rank the cells equally."
)


def build_ladder(ladder: Ladder, data: PageData) -> tuple[Panel, list[str]]:
    """Build the figure of a ladder, and the statements of its fits."""
    figure = to_plotly(describe_ladder(ladder.size, ladder.points, ladder.fits))
    alt = f"Order parameter against {ladder.size}"
    title = f"Over {ladder.size}"
    panel = data.add_figure(title, _LADDER_NOTE, alt, figure, ladder_table(ladder))
    statements = [
        f"{series}: {fit.statement}" if series else fit.statement
        for series, fit in ladder.fits.items()
    ]
    return panel, statements


def build_knock_out(findings: Findings, data: PageData) -> list[Item]:
    """Build the section on knocked-out layers."""
    if (table := gap_table(findings)) is None:
        return []
    gaps = findings.gaps
    limits = value_range(gaps)
    note = "; ".join([describe_networks(gaps[0]), *explain_marks(gaps, missing="grey")])
    panels = [
        data.add_figure(m.title, note, m.title, matrix_to_plotly(describe_matrix(m, limits)))
        for m in gaps
    ]
    return [*panels, table]


def build_losses(findings: Findings, data: PageData) -> list[Item]:
    """Build the section that compares losses and measures."""
    items: list[Item | None] = [
        *_build_representations(findings, data),
        task_table(findings),
        hacking_table(findings),
    ]
    square = correlation_frame(findings)
    if square is not None:
        alt = "Rank correlations between measures"
        figure = to_plotly(describe_correlations(square))
        items.append(data.add_figure("Do the measures agree?", _CORRELATION_NOTE, alt, figure))
    items += [agreement_table(findings), decision_table(findings), measure_table(findings)]
    return _drop_none(items)


def _build_representations(findings: Findings, data: PageData) -> Sequence[Item | None]:
    table, frame = representation_table(findings), findings.representations
    figures = findings.representation_quantities
    if table is None or frame is None or not figures:
        return [table]
    differences = "Differences between representations by region of the matrix"
    scores = "Out-of-distribution scores by region"
    texts = {
        "representations": (table.title, table.note, differences),
        "outlier_scores": (scores, _OUTLIER_NOTE, scores),
    }
    return [
        data.add_figure(
            *texts[name],
            to_plotly(describe_regions(frame, quantities)),
            table if position == 0 else None,
        )
        for position, (name, quantities) in enumerate(figures.items())
    ]


def build_networks(findings: Findings, data: PageData) -> list[Item]:
    """Build the section on networks and their probes."""
    items: list[Item | None] = [network_table(findings)]
    if (probes := probe_table(findings)) is not None:
        alt = "Test accuracy of linear probes by layer"
        figure = to_plotly(describe_probes(probes.frame))
        items.append(data.add_figure(probes.title, probes.note, alt, figure, probes))
    return _drop_none(items)


def build_search(findings: Findings, data: PageData) -> list[Item]:
    """Build the section on the search."""
    items: list[Item | None] = []
    if (table := importance_table(findings)) is not None:
        alt = "Importance of every searched setting"
        figure = to_plotly(describe_importances(table.frame, group_names(table.frame)))
        items.append(data.add_figure(table.title, table.note, alt, figure, table))
    items += [stopped_table(findings), front_table(findings)]
    return _drop_none(items)


def _drop_none(items: Sequence[Item | None]) -> list[Item]:
    return [item for item in items if item is not None]
