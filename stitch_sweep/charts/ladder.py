"""The ladder: order parameters of matrices against the size of their networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from stitch_sweep.analysis.ladder.fit import LadderFit
from stitch_sweep.charts.colors import series_style
from stitch_sweep.charts.elements import Axis, LineChart, ReferenceLine, Series, Span, has_values

_AXIS_TITLES = {"depth": "depth, blocks", "width": "width, channels"}
_CURVE_POINTS = 200


def describe_ladder(size: str, points: pd.DataFrame, fits: Mapping[str, LadderFit]) -> LineChart:
    """Describe order parameters with intervals, their fits, and the interval of a transition.

    A dashed curve shows a trend without a selected model; a shaded range is the interval of a transition.

    Args:
        size: the kind of size on the horizontal axis: "depth", "width" or "parameters".
        points: one row per matrix, as `analysis.ladder.points.ladder_points` returns it.
        fits: series -> fit of the order parameter.
    """
    series, spans = [], []
    for position, (name, group) in enumerate(points.groupby("series", sort=True)):
        style = series_style(position)
        rows = group.dropna(subset=["size", "order"])
        if rows.empty:
            continue
        columns = ["sender", "receiver", "order", "label"]
        series.append(
            Series(
                x=rows["size"].tolist(),
                y=rows["order"].tolist(),
                style=style,
                name=str(name),
                has_line=False,
                errors=(
                    (rows["order"] - rows["low"]).clip(lower=0).fillna(0).tolist(),
                    (rows["high"] - rows["order"]).clip(lower=0).fillna(0).tolist(),
                ),
                hover=[
                    f"{sender} → {receiver}\n{order:.2f}, {label}"
                    for sender, receiver, order, label in rows[columns].itertuples(index=False)
                ],
            )
        )
        fit = fits.get(str(name))
        if fit is None or len(rows) < 2:
            continue
        sizes = np.geomspace(rows["size"].min(), rows["size"].max(), _CURVE_POINTS)
        curve = fit.curve(sizes).tolist()
        if has_values(curve):
            line_style = replace(style, dash="dashed") if fit.selected is None else style
            series.append(Series(sizes.tolist(), curve, line_style, has_markers=False))
        if fit.transition is not None:
            spans.append(Span(fit.transition.low, fit.transition.high, style.color))
    sizes_shown = sorted({float(value) for value in points["size"].dropna()})
    ticks = tuple((value, short_size(value)) for value in select_ticks(sizes_shown))
    return LineChart(
        series=series,
        x=Axis(_AXIS_TITLES.get(size, size), _log_limits(sizes_shown), ticks, is_log=True),
        y=Axis("order parameter"),
        spans=spans,
        references=[ReferenceLine(1.0, "triangle"), ReferenceLine(0.0, "diagonal")],
    )


def _log_limits(sizes: Sequence[float]) -> tuple[float, float]:
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    margin = max(0.06 * (high - low), 0.02)
    return 10 ** (low - margin), 10 ** (high + margin)


def select_ticks(sizes: Sequence[float], share: float = 0.14) -> list[float]:
    """Select those of the ascending sizes whose labels fit on a logarithmic axis.

    Args:
        sizes: the sizes that could have a label.
        share: the least distance between two labels, as a share of the axis.
    """
    least = share * math.log(sizes[-1] / sizes[0])
    selected: list[float] = []
    for size in sizes:
        if not selected or math.log(size / selected[-1]) >= least:
            selected.append(size)
    return selected


def short_size(value: float) -> str:
    """Format a size for an axis: 12, 1.3k, 11M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:g}"
