"""Charts drawn by Plotly for a web page.

Plotly reads markup in texts, so every text goes through `escape_markup`. The page's style sheet
(report/templates/report.css) sets the colors of texts and axes, so that they follow the page in dark
mode and on paper.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from stitch_sweep.charts.colors import SERIES, color_scale
from stitch_sweep.charts.elements import (
    Axis,
    BarChart,
    ChartRow,
    Heatmap,
    LineChart,
    ReferenceLine,
    Series,
)

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
DASHES = {"solid": "solid", "dashed": "dash", "dotted": "dot", "dashdot": "dashdot"}
_SYMBOLS = {
    "circle": "circle",
    "square": "square",
    "diamond": "diamond",
    "triangle": "triangle-up",
    "x": "x",
    "plus": "cross",
}
_CLEAR = "rgba(0,0,0,0)"
_NOT_RUN = "rgba(128,136,145,0.22)"
_FAILED = "rgba(128,136,145,0.6)"


def escape_markup(text: object) -> str:
    """Escape text for Plotly; line breaks become `<br>`."""
    return html.escape(str(text), quote=False).replace("\n", "<br>")


def base_layout(x: str = "", y: str = "", **more: Any) -> dict[str, Any]:
    """Return the common layout of all charts.

    Args:
        x: title of the horizontal axis.
        y: title of the vertical axis.
        more: further keys of Plotly's layout; they replace the common ones.
    """
    axis = {
        "showline": True,
        "linecolor": "#59626d",
        "gridcolor": "#d9dde2",
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "#59626d",
    }
    return {
        "template": None,
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "font": {"family": FONT, "size": 12, "color": "#59626d"},
        "margin": {"l": 52, "r": 12, "t": 14, "b": 44},
        "height": 300,
        "hoverlabel": {"font": {"family": FONT, "size": 12}},
        "dragmode": False,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemclick": False,
                   "itemdoubleclick": False, "bgcolor": _CLEAR},
        "xaxis": {**axis, "title": {"text": x, "standoff": 8}, "showgrid": False},
        "yaxis": {**axis, "title": {"text": y, "standoff": 8}, "showgrid": True},
        **more,
    }  # fmt: skip


def to_plotly(chart: LineChart | ChartRow | BarChart | Heatmap) -> go.Figure:
    """Draw a chart for a page, which sets the chart's width."""
    match chart:
        case LineChart():
            return _lines(chart)
        case ChartRow():
            return _row(chart)
        case BarChart():
            return _bars(chart)
    return _named_heatmap(chart)


def matrix_to_plotly(heatmap: Heatmap) -> go.Figure:
    """Draw a matrix. The page sets its size, and the outline of the selected cell.

    The page's script may replace the values. It reads the numbers of rows and columns from `meta`.
    """
    figure = _heatmap(heatmap)
    empty = heatmap.empty_cells()
    titles = _hover_titles(heatmap)
    figure.add_trace(
        go.Scatter(
            x=[j for _, j, _ in empty],
            y=[i for i, _, _ in empty],
            mode="text",
            text=[heatmap.texts[i][j] for i, j, _ in empty],
            customdata=[
                [heatmap.row_labels[i], heatmap.column_labels[j], state] for i, j, state in empty
            ],
            hovertemplate=f"{titles}%{{customdata[2]}}<extra></extra>",
            textfont={"size": 14},
            showlegend=False,
        )
    )
    shapes: list[dict[str, Any]] = [
        # The outline of the selected cell; the page moves it.
        {"type": "rect", "x0": 0, "x1": 0, "y0": 0, "y1": 0, "visible": False, "layer": "above",
         "line": {"width": 2.5, "color": "#16191d"}, "fillcolor": _CLEAR}
    ]  # fmt: skip
    half = 0.47
    for i, j, state in empty:
        look = (
            {"line": {"width": 1, "color": _FAILED}, "fillcolor": _CLEAR}
            if state == "failed"
            else {"line": {"width": 0}, "fillcolor": _NOT_RUN}
        )
        place = {"x0": j - half, "x1": j + half, "y0": i - half, "y1": i + half}
        shapes.append({"type": "rect", "layer": "below", **place, **look})

    def axis(labels: Sequence[str], title: str, limits: Sequence[float]) -> dict[str, Any]:
        return {
            "tickvals": list(range(len(labels))),
            "ticktext": [escape_markup(label) for label in labels],
            "title": {"text": escape_markup(title), "standoff": 6},
            "range": list(limits),
            "showgrid": False,
            "showline": False,
            "ticks": "",
            "zeroline": False,
            "fixedrange": True,
        }

    rows, columns = heatmap.values.shape
    figure.update_layout(
        **base_layout()
        | {
            "margin": {"l": 46, "r": 4, "t": 4, "b": 42},
            "height": None,
            "xaxis": axis(heatmap.column_labels, heatmap.column_title, [-0.5, columns - 0.5]),
            "yaxis": axis(heatmap.row_labels, heatmap.row_title, [rows - 0.5, -0.5]),
            "shapes": shapes,
            "meta": {"rows": rows, "columns": columns},
        }
    )
    return figure


def to_json_values(values: np.ndarray) -> list[list[float | None]]:
    """Convert [rows, columns] for JSON: five significant digits, None for NaN."""
    return [_to_json_list(row) for row in values]


def _to_json_list(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [None if math.isnan(v) else float(f"{v:.5g}") for v in values]


def _hover_titles(heatmap: Heatmap) -> str:
    titles = (heatmap.row_title, heatmap.column_title)
    return "".join(f"{escape_markup(t)} %{{customdata[{k}]}}<br>" for k, t in enumerate(titles))


def _heatmap(heatmap: Heatmap) -> go.Figure:
    rows, columns = heatmap.values.shape
    low, high = heatmap.limits
    titles = (
        _hover_titles(heatmap) if heatmap.row_title else "%{customdata[0]} and %{customdata[1]}<br>"
    )
    value = f"{escape_markup(heatmap.value_title)} %{{z:.{heatmap.digits}f}}"
    # A failed cell's × is a text of its own, which stays when the page replaces the values.
    texts = [
        ["" if math.isnan(v) else text for v, text in zip(*pair, strict=True)]
        for pair in zip(heatmap.values, heatmap.texts, strict=True)
    ]
    return go.Figure(
        go.Heatmap(
            z=to_json_values(heatmap.values),
            x=list(range(columns)),
            y=list(range(rows)),
            text=texts,
            texttemplate="%{text}",
            customdata=[
                [[escape_markup(i), escape_markup(j)] for j in heatmap.column_labels]
                for i in heatmap.row_labels
            ],
            hovertemplate=f"{titles}{value}<extra></extra>",
            hoverongaps=False,
            colorscale=[list(stop) for stop in color_scale(low, high)],
            zmin=low,
            zmax=high,
            xgap=2,
            ygap=2,
            showscale=False,
        )
    )


def _named_heatmap(heatmap: Heatmap) -> go.Figure:
    rows, columns = heatmap.values.shape
    figure = _heatmap(heatmap)
    layout = base_layout(height=150 + 30 * rows, meta={"least": 170 + 38 * columns})
    figure.update_layout(layout)
    for update, labels in (
        (figure.update_xaxes, heatmap.column_labels),
        (figure.update_yaxes, heatmap.row_labels),
    ):
        texts = [escape_markup(label) for label in labels]
        update(showline=False, ticks="", tickvals=list(range(len(texts))), ticktext=texts)
    figure.update_xaxes(tickangle=-40)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def _lines(chart: LineChart) -> go.Figure:
    figure = go.Figure([_trace(series) for series in chart.series])
    figure.update_layout(base_layout(height=340 if chart.references else 300))
    for span in chart.spans:
        figure.add_vrect(span.low, span.high, fillcolor=span.color, opacity=0.13, line_width=0)
    _add_references(figure, chart.references)
    figure.update_xaxes(**_axis(chart.x))
    figure.update_yaxes(**_axis(chart.y))
    return figure


def _add_references(figure: go.Figure, references: Sequence[ReferenceLine]) -> None:
    for line in references:
        figure.add_hline(line.value, line={"color": "#8a929b", "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=1,
            y=line.value,
            xref="paper",
            xanchor="left",
            xshift=6,
            text=escape_markup(line.label),
            showarrow=False,
        )
    if references:
        figure.update_layout(margin_r=64)


def _row(row: ChartRow) -> go.Figure:
    count = len(row.charts)
    gap = 0.07
    width = (1 - gap * (count - 1)) / count
    figure = go.Figure()
    figure.update_layout(base_layout(height=320, meta={"least": 230 * count}))
    base = figure.layout.to_plotly_json()
    axes: dict[str, Any] = {}
    for position, chart in enumerate(row.charts):
        number = str(position + 1) if position else ""
        x_start = position * (width + gap)
        for series in chart.series:
            trace = _trace(series)
            trace.update(xaxis=f"x{number}", yaxis=f"y{number}")
            trace.showlegend = bool(series.name) and not position
            figure.add_trace(trace)
        domain = {"domain": [x_start, x_start + width], "anchor": f"y{number}"}
        axes[f"xaxis{number}"] = base["xaxis"] | _axis(chart.x) | domain
        axes[f"yaxis{number}"] = base["yaxis"] | _axis(chart.y) | {"anchor": f"x{number}"}
        axes[f"xaxis{number}"]["title"] = {"text": escape_markup(chart.title), "standoff": 8}
    figure.update_layout(axes)
    return figure


def _trace(series: Series) -> go.Scatter:
    style = series.style
    modes = [
        name
        for name, shown in (("lines", series.has_line), ("markers", series.has_markers))
        if shown
    ]
    trace = go.Scatter(
        x=list(series.x),
        y=_to_json_list(series.y),
        mode="+".join(modes),
        line={"color": style.color, "dash": DASHES[style.dash], "width": 1.8},
        marker={"color": style.color, "symbol": _SYMBOLS[style.marker], "size": 8},
        name=escape_markup(series.name),
        opacity=series.opacity,
        showlegend=bool(series.name),
    )
    if series.hover:
        extra = "" if series.name else "<extra></extra>"
        trace.update(
            hovertext=[escape_markup(text) for text in series.hover],
            hovertemplate=f"%{{hovertext}}{extra}",
        )
    else:
        trace.hoverinfo = "skip"
    if series.errors is not None:
        below, above = series.errors
        trace.error_y = {
            "type": "data",
            "array": _to_json_list(above),
            "arrayminus": _to_json_list(below),
            "thickness": 1.2,
            "width": 3,
            "color": style.color,
        }
    return trace


def _axis(axis: Axis) -> dict[str, Any]:
    layout: dict[str, Any] = {"title": {"text": escape_markup(axis.title), "standoff": 8}}
    low, high = axis.limits
    if axis.is_log:
        layout["type"] = "log"
        low, high = (None if end is None else math.log10(end) for end in (low, high))
    if (low, high) == (0, None):
        layout["rangemode"] = "tozero"
    elif low is not None and high is not None:
        layout["range"] = [low, high]
    if axis.ticks is not None:
        layout["tickvals"] = [place for place, _ in axis.ticks]
        layout["ticktext"] = [escape_markup(text) for _, text in axis.ticks]
    elif axis.whole_ticks:
        layout["dtick"] = 1
    return layout


def _bars(chart: BarChart) -> go.Figure:
    categories = [escape_markup(category) for category in chart.categories]
    figure = go.Figure()
    for group in chart.groups:
        name = escape_markup(group.name)
        values = _to_json_list(group.values)
        if chart.as_points:
            figure.add_trace(
                go.Scatter(
                    y=categories,
                    x=values,
                    mode="markers",
                    marker={"color": SERIES[0], "size": 9, "opacity": 0.55},
                    name=name,
                    hovertemplate="%{x:.2f}",
                    showlegend=False,
                )
            )
        else:
            figure.add_trace(
                go.Bar(
                    y=categories,
                    x=values,
                    orientation="h",
                    marker={"color": group.style.color},
                    name=name,
                    hovertemplate="%{x:.2f}",
                    showlegend=len(chart.groups) > 1,
                )
            )
    count = len(categories)
    bars = count * (1 if chart.as_points else len(chart.groups))
    figure.update_layout(base_layout(height=110 + 18 * bars + 12 * count))
    figure.update_xaxes(**_axis(chart.x), showgrid=True)
    figure.update_yaxes(showgrid=False, categoryorder="array", categoryarray=categories)
    return figure
