"""The page's figures, for Plotly in the browser.

Whatever comes from a folder and is shown by Plotly goes through `plain`: its texts may hold markup.
Colours of texts and axes are the page's own (templates/report.css), so that they follow it in the dark
and on paper.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from stitch_sweep.analysis.matrix.matrices import Matrix
from stitch_sweep.charts.captions import number
from stitch_sweep.charts.colors import SERIES, colour_scale, value_range
from stitch_sweep.report.findings import Ladder
from stitch_sweep.report.tables import quantity

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
MOST_BARS = 6
"""Above so many groups their importances are drawn as points."""
CLEAR = "rgba(0,0,0,0)"
_EMPTY = "rgba(128,136,145,0.22)"
_FAILED = "rgba(128,136,145,0.6)"


def plain(text: object) -> str:
    """Text that Plotly shows as it stands."""
    return html.escape(str(text), quote=False)


def style(k: int) -> tuple[str, str, str]:
    """Colour, dash and symbol of the k-th series; colours come round again with another dash."""
    return (
        SERIES[k % len(SERIES)],
        DASHES[(k // len(SERIES)) % len(DASHES)],
        SYMBOLS[k % len(SYMBOLS)],
    )


def layout(x: str = "", y: str = "", **more: Any) -> dict[str, Any]:
    """What all charts have in common; `x` and `y` are the axes' titles."""
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
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": FONT, "size": 12, "color": "#59626d"},
        "margin": {"l": 52, "r": 12, "t": 14, "b": 44},
        "height": 300,
        "hoverlabel": {"font": {"family": FONT, "size": 12}},
        "dragmode": False,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemclick": False,
                   "itemdoubleclick": False, "bgcolor": CLEAR},
        "xaxis": {**axis, "title": {"text": x, "standoff": 8}, "showgrid": False},
        "yaxis": {**axis, "title": {"text": y, "standoff": 8}, "showgrid": True},
        **more,
    }  # fmt: skip


def heatmap(matrix: Matrix, low: float, high: float) -> go.Figure:
    """A matrix with its numbers; the page sets its size, and the outline of the chosen cell.

    Args:
        matrix: what is shown first; the page can put other values into its place.
        low: of the colour scale.
        high: of the colour scale.
    """
    values = matrix.values.to_numpy()
    rows, columns = (
        [int(k) for k in axis] for axis in (matrix.values.index, matrix.values.columns)
    )
    unconverged, failed = matrix.unconverged.to_numpy(), matrix.failed.to_numpy()
    text = [
        [
            "" if math.isnan(v) else number(float(v)) + ("*" if mark else "")
            for v, mark in zip(*row, strict=True)
        ]
        for row in zip(values, unconverged, strict=True)
    ]
    layers = np.array([[[i, j] for j in columns] for i in rows])
    name = plain(matrix.value_label)
    where = "".join(f"{axis} %{{customdata[{k}]}}<br>" for k, axis in enumerate(matrix.axes))
    figure = go.Figure(
        go.Heatmap(
            z=numbers(values),
            x=list(range(len(columns))),
            y=list(range(len(rows))),
            text=text,
            texttemplate="%{text}",
            customdata=layers.tolist(),
            hovertemplate=f"{where}{name} %{{z:.4f}}<extra></extra>",
            hoverongaps=False,
            colorscale=[list(stop) for stop in colour_scale()],
            zmin=low,
            zmax=high,
            xgap=2,
            ygap=2,
            showscale=False,
        )
    )
    empty = [(int(i), int(j)) for i, j in np.argwhere(np.isnan(values))]
    figure.add_trace(
        go.Scatter(
            x=[j for _, j in empty],
            y=[i for i, _ in empty],
            mode="text",
            text=["×" if failed[i, j] else "" for i, j in empty],
            customdata=[
                [rows[i], columns[j], "failed" if failed[i, j] else "not run"] for i, j in empty
            ],
            hovertemplate=f"{where}%{{customdata[2]}}<extra></extra>",
            textfont={"size": 14},
            showlegend=False,
        )
    )
    edge = 0.47
    shapes: list[dict[str, Any]] = [
        # The chosen cell; where it is, the page knows.
        {"type": "rect", "x0": 0, "x1": 0, "y0": 0, "y1": 0, "visible": False, "layer": "above",
         "line": {"width": 2.5, "color": "#16191d"}, "fillcolor": CLEAR}
    ]  # fmt: skip
    for i, j in empty:
        look = (
            {"line": {"width": 1, "color": _FAILED}, "fillcolor": CLEAR}
            if failed[i, j]
            else {"line": {"width": 0}, "fillcolor": _EMPTY}
        )
        place = {"x0": j - edge, "x1": j + edge, "y0": i - edge, "y1": i + edge}
        shapes.append({"type": "rect", "layer": "below", **place, **look})

    def axis(layers: Sequence[int], title: str) -> dict[str, Any]:
        return {
            "tickvals": list(range(len(layers))),
            "ticktext": [str(layer) for layer in layers],
            "title": {"text": title, "standoff": 6},
            "showgrid": False,
            "showline": False,
            "ticks": "",
            "zeroline": False,
            "fixedrange": True,
        }

    figure.update_layout(
        **layout()
        | {
            "margin": {"l": 46, "r": 4, "t": 4, "b": 42},
            "height": None,
            "xaxis": axis(columns, matrix.axes[1]) | {"range": [-0.5, len(columns) - 0.5]},
            "yaxis": axis(rows, matrix.axes[0]) | {"range": [len(rows) - 0.5, -0.5]},
            "shapes": shapes,
            "meta": {"rows": len(rows), "columns": len(columns)},
        }
    )
    return figure


def numbers(values: np.ndarray) -> list[list[float | None]]:
    """Values as JSON has them: five digits, None for NaN."""
    return [[None if math.isnan(v) else float(f"{v:.5g}") for v in row] for row in values]


def ladder(found: Ladder) -> go.Figure:
    """The order parameter against size, with intervals, the fit, and where it says the transition is."""
    figure = go.Figure()
    points = found.points
    for k, (series, group) in enumerate(points.groupby("series", sort=True)):
        colour, dash, symbol = style(k)
        known = group.dropna(subset=["size", "order"])
        fit = found.fits.get(str(series))
        above = (known["high"] - known["order"]).clip(lower=0)
        below = (known["order"] - known["low"]).clip(lower=0)
        figure.add_trace(
            go.Scatter(
                x=known["size"].tolist(),
                y=known["order"].tolist(),
                error_y={
                    "type": "data",
                    "array": above.fillna(0).tolist(),
                    "arrayminus": below.fillna(0).tolist(),
                    "thickness": 1.2,
                    "width": 3,
                    "color": colour,
                },
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9},
                name=plain(series or "order parameter"),
                customdata=[
                    [plain(f"{a} → {b}"), plain(label)]
                    for a, b, label in known[["sender", "receiver", "label"]].to_numpy().tolist()
                ],
                hovertemplate="%{customdata[0]}<br>%{y:.2f}, %{customdata[1]}",
                showlegend=bool(series),
            )
        )
        if fit is None or len(known) < 2:
            continue
        sizes = np.geomspace(known["size"].min(), known["size"].max(), 120)
        curve = fit.curve(sizes)
        if not np.isnan(curve).all():
            figure.add_trace(
                go.Scatter(
                    x=sizes.tolist(),
                    y=[float(f"{v:.4g}") for v in curve],
                    mode="lines",
                    line={
                        "color": colour,
                        "width": 1.5,
                        "dash": "dash" if fit.selected is None else dash,
                    },
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
        if fit.transition is not None:
            figure.add_vrect(
                fit.transition.low,
                fit.transition.high,
                fillcolor=colour,
                opacity=0.13,
                line_width=0,
            )
    ticks = sorted({float(v) for v in points["size"].dropna()})
    unit = {"depth": "depth, blocks", "width": "width, channels", "parameters": "parameters"}
    x: dict[str, Any] = {"type": "log", "range": _log_range(ticks)}
    shown = spread(ticks)
    x |= {"tickvals": shown, "ticktext": [short_size(v) for v in shown]}
    figure.update_layout(layout(unit.get(found.size, found.size), "order parameter", height=340))
    figure.update_xaxes(**x)
    for value, name in ((1.0, "triangle"), (0.0, "diagonal")):
        figure.add_hline(value, line={"color": "#8a929b", "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=1, y=value, xref="paper", xanchor="left", xshift=6, text=name, showarrow=False
        )
    figure.update_layout(margin_r=64)
    return figure


def _log_range(sizes: Sequence[float]) -> list[float]:
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    edge = max(0.06 * (high - low), 0.02)
    return [low - edge, high + edge]


def spread(sizes: Sequence[float]) -> list[float]:
    """Those of the ascending sizes whose labels have room on a logarithmic axis."""
    least = 0.14 * math.log(sizes[-1] / sizes[0])
    shown: list[float] = []
    for size in sizes:
        if not shown or math.log(size / shown[-1]) >= least:
            shown.append(size)
    return shown


def short_size(value: float) -> str:
    """A size as an axis has room for: 12, 1.3k, 11M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:g}"


def probes(frame: pd.DataFrame) -> go.Figure:
    """Test accuracy of a linear classifier on every layer, a line per network."""
    figure = go.Figure()
    for k, (name, group) in enumerate(frame.groupby("network", sort=False)):
        colour, dash, symbol = style(k)
        ordered = group.sort_values("layer")
        figure.add_trace(
            go.Scatter(
                x=ordered["layer"].tolist(),
                y=_values(ordered["test_accuracy"]),
                mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2},
                marker={"symbol": symbol, "size": 7},
                name=plain(name),
                hovertemplate="layer %{x}: %{y:.3f}",
            )
        )
    figure.update_layout(layout("layer", "linear probe, test accuracy"))
    figure.update_xaxes(dtick=1)
    figure.update_yaxes(range=[0, 1.03])
    return figure


def importances(frame: pd.DataFrame, names: Sequence[str]) -> go.Figure:
    """A bar per searched setting, groups side by side; a point per group where there are many.

    Args:
        frame: the table `importances`.
        names: what each row's group is called.
    """
    figure = go.Figure()
    named = frame.assign(group=list(names))
    order = named.groupby("setting")["importance"].mean().sort_values().index.tolist()
    groups = list(named.groupby("group", sort=False))
    if len(groups) > MOST_BARS:
        figure.add_trace(
            go.Scatter(
                y=[plain(s) for s in named["setting"]],
                x=_values(named["importance"]),
                mode="markers",
                marker={"color": SERIES[0], "size": 9, "opacity": 0.55},
                customdata=[[plain(name)] for name in named["group"]],
                hovertemplate="%{x:.2f}, %{customdata[0]}<extra></extra>",
                showlegend=False,
            )
        )
    for k, (name, group) in enumerate(groups if len(groups) <= MOST_BARS else []):
        values = group.set_index("setting")["importance"].reindex(order)
        figure.add_trace(
            go.Bar(
                y=[plain(s) for s in order],
                x=_values(values),
                orientation="h",
                marker={"color": style(k)[0]},
                name=plain(name),
                hovertemplate="%{x:.2f}",
                showlegend=len(groups) > 1,
            )
        )
    bars = len(order) * (len(groups) if len(groups) <= MOST_BARS else 1)
    figure.update_layout(layout("importance", "", height=110 + 18 * bars + 12 * len(order)))
    figure.update_xaxes(range=[-0.02, 1.03], showgrid=True)
    figure.update_yaxes(
        showgrid=False, categoryorder="array", categoryarray=[plain(s) for s in order]
    )
    return figure


def correlations(square: pd.DataFrame) -> go.Figure:
    """Rank correlations of each two measures, from -1 to 1."""
    names = [quantity(name) for name in square.columns]
    values = square.to_numpy()
    figure = go.Figure(
        go.Heatmap(
            z=numbers(values),
            x=names,
            y=names,
            text=[["" if math.isnan(v) else f"{v:z.2f}" for v in row] for row in values],
            texttemplate="%{text}",
            hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
            colorscale=[list(stop) for stop in colour_scale()],
            zmin=-1,
            zmax=1,
            xgap=2,
            ygap=2,
            showscale=False,
            hoverongaps=False,
        )
    )
    figure.update_layout(
        layout("", "", height=150 + 30 * len(names), meta={"least": 170 + 38 * len(names)})
    )
    figure.update_xaxes(showline=False, ticks="", tickangle=-40)
    figure.update_yaxes(showline=False, ticks="", autorange="reversed", showgrid=False)
    return figure


def regions(frame: pd.DataFrame, wanted: Sequence[str]) -> go.Figure:
    """Means by region as points with their standard errors, a panel per quantity.

    Args:
        frame: what `comparison.regional` returned, of one pair and combination of factors.
        wanted: quantities.
    """
    loss = "similarity_loss" if "similarity_loss" in frame else "loss"
    figure = go.Figure()
    places = ["lower", "band", "upper"]
    series = itertools.product(wanted, frame[loss].drop_duplicates())
    for k, (name, label) in enumerate(series):
        group = frame[(frame["quantity"] == name) & (frame[loss] == label)].set_index("region")
        group = group.reindex(places)
        colour, dash, symbol = style(k)
        figure.add_trace(
            go.Scatter(
                x=places,
                y=_values(group["mean"]),
                error_y={
                    "type": "data",
                    "array": _values(group["standard_error"]),
                    "thickness": 1.2,
                    "width": 3,
                },
                mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 1.5},
                marker={"symbol": symbol, "size": 8},
                name=plain(f"{quantity(name)}, {label}"),
                hovertemplate="%{x}: %{y:.3g}",
            )
        )
    figure.update_layout(layout("region of the matrix", "mean"))
    return figure


def _values(column: pd.Series) -> list[float | None]:
    return [
        None if math.isnan(v) else float(f"{v:.5g}")
        for v in column.to_numpy("float64", na_value=math.nan)
    ]


def scale_of(matrices: Sequence[Matrix]) -> tuple[float, float]:
    """The colour scale that matrices of one value share; similarities and the like end at 1 too."""
    name = matrices[0].value_name
    shares = ("val_cosine", "val_correlation", "val_cca", "val_svcca", "val_pwcca", "val_cka")
    if name in shares or name.startswith(("agreement_", "kappa_")):
        values = np.concatenate([m.values.to_numpy().ravel() for m in matrices])
        return float(np.min(values, initial=0.0, where=~np.isnan(values))), 1.0
    return value_range(matrices)
