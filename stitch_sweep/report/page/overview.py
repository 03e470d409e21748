"""The overview: a row per matrix with a small picture, its label and its indices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.verdict import CONTROL_TITLES, Verdict
from stitch_sweep.charts.colors import cell_colors, value_range
from stitch_sweep.report.findings import headline, makes_images, mean_accuracy
from stitch_sweep.report.page.matrices import format_indices
from stitch_sweep.report.tables.formats import format_p_value


@dataclass(frozen=True)
class OverviewRow:
    """A row of the overview.

    Attributes:
        target: id of the element that shows the matrix.
        pair: sender and receiver.
        factors: the factors; empty for none.
        thumbnail: a small picture of the matrix.
        label: the shape's label, which selects the icon.
        headline: the label as it is shown.
        detail: kind and shape of a control.
        indices: value and interval of each index.
        p: the p-value.
        mean: the mean accuracy.
        explained: controls with the same shape.
    """

    target: str
    pair: str
    factors: str
    thumbnail: Markup
    label: str
    headline: str
    detail: str
    indices: list[tuple[str, str]]
    p: str
    mean: str
    explained: str


def build_overview(verdicts: Sequence[Verdict], targets: Mapping[int, str]) -> list[OverviewRow]:
    """Build the overview, controls last; below each pair, what it reaches beyond its logits-only control.

    Args:
        verdicts: one per matrix.
        targets: position of a verdict -> id of the element that shows its matrix.
    """
    ordered = sorted(enumerate(verdicts), key=lambda item: item[1].control is not None)
    return [
        _build_row(verdict, targets[position])
        for position, pair in ordered
        for verdict in (pair, pair.excess)
        if verdict is not None
    ]


def _build_row(verdict: Verdict, target: str) -> OverviewRow:
    matrix, mean = verdict.matrix, mean_accuracy(verdict)
    has_images = makes_images(matrix)
    detail = []
    if verdict.control is not None:
        detail = [CONTROL_TITLES[verdict.control], "images" if has_images else verdict.shaped]
    return OverviewRow(
        target=target,
        pair=f"{matrix.sender} → {matrix.receiver}",
        factors=matrix.series,
        thumbnail=draw_thumbnail(matrix),
        label="images" if has_images else verdict.label,
        headline=headline(verdict) if verdict.control is None else "control",
        detail=", ".join(detail),
        indices=[(value, interval) for _, value, interval in format_indices(verdict)],
        p="–" if verdict.p_value is None else format_p_value(verdict.p_value),
        mean="–" if math.isnan(mean) else f"{mean:.3f}",
        explained=", ".join(CONTROL_TITLES.get(name, name) for name in verdict.explained_by),
    )


def draw_thumbnail(matrix: Matrix) -> Markup:
    """Draw a matrix as an SVG of a few millimeters, in the colors of the large one."""
    values = matrix.values.to_numpy()
    rows, columns = values.shape
    low, high = value_range([matrix])
    size = max(2.0, min(9.0, 54 / max(rows, columns)))
    squares = [
        f'<rect x="{j * size:.4g}" y="{i * size:.4g}" width="{size:.4g}" height="{size:.4g}" '
        f'fill="{cell_colors(float(values[i, j]), low, high)[0]}"/>'
        for i in range(rows)
        for j in range(columns)
        if not math.isnan(values[i, j])
    ]
    width, height = columns * size, rows * size
    return Markup(
        f'<svg class="thumb" width="{width:.4g}" height="{height:.4g}" '
        f'viewBox="0 0 {width:.4g} {height:.4g}" shape-rendering="crispEdges" aria-hidden="true">'
        f"{''.join(squares)}</svg>"
    )
