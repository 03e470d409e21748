"""The page's figures for papers, drawn by matplotlib; matrices are `analysis.figures`'s own."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, NullLocator

from stitch_sweep.charts.colors import COLOUR_MAP, SERIES, cell_colours
from stitch_sweep.measuring.pictures import Picture, Pictures
from stitch_sweep.report.findings import Ladder
from stitch_sweep.report.plots import MOST_BARS, short_size, spread
from stitch_sweep.report.tables import quantity

_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "D", "^", "X", "P")
_FAINT = "#8a929b"
_SMALL = 8.5


def _style(k: int) -> tuple[str, str, str]:
    return (
        SERIES[k % len(SERIES)],
        _DASHES[(k // len(SERIES)) % len(_DASHES)],
        _MARKERS[k % len(_MARKERS)],
    )


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09)  # inches


def _chart(width: float = 5.2, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), facecolor="white", layout=_layout())
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_SMALL)
    return figure, axes


def _legend(axes: Axes, left: float = 1.0) -> None:
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return
    wrapped = ["\n".join(textwrap.wrap(name, 36)) or name for name in names]
    legend = axes.legend(handles, wrapped, fontsize=8, frameon=False, loc="upper left",
                         bbox_to_anchor=(left, 1.0))  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def ladder(found: Ladder) -> Figure:
    """The order parameter against size, with intervals, fits, and where a transition may lie."""
    figure, axes = _chart()
    points = found.points
    for k, (series, group) in enumerate(points.groupby("series", sort=True)):
        colour, dash, marker = _style(k)
        known = group.dropna(subset=["size", "order"])
        if known.empty:
            continue
        ends = [
            (known["order"] - known["low"]).clip(lower=0).fillna(0),
            (known["high"] - known["order"]).clip(lower=0).fillna(0),
        ]
        axes.errorbar(known["size"], known["order"], yerr=ends, fmt=marker, color=colour,
                      capsize=2.5, linewidth=1, markersize=5, label=str(series) or None)  # fmt: skip
        fit = found.fits.get(str(series))
        if fit is None:
            continue
        sizes = np.geomspace(known["size"].min(), known["size"].max(), 200)
        axes.plot(sizes, fit.curve(sizes), color=colour, linewidth=1.2,
                  linestyle="--" if fit.selected is None else dash)  # fmt: skip
        if fit.transition is not None:
            axes.axvspan(
                fit.transition.low, fit.transition.high, color=colour, alpha=0.13, linewidth=0
            )
    for value, name in ((1.0, "triangle"), (0.0, "diagonal")):
        axes.axhline(value, color=_FAINT, linewidth=0.8, linestyle=":")
        axes.text(1.02, value, name, transform=axes.get_yaxis_transform(), size=8, color="#555555",
                  va="center")  # fmt: skip
    axes.set_xscale("log")
    ticks = sorted({float(v) for v in points["size"].dropna()})
    shown = spread(ticks)
    axes.set_xticks(shown, [short_size(v) for v in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    unit = {"depth": "depth, blocks", "width": "width, channels", "parameters": "parameters"}
    axes.set_xlabel(unit.get(found.size, found.size), size=9)
    axes.set_ylabel("order parameter", size=9)
    _legend(axes, left=1.16)
    return figure


def probes(frame: pd.DataFrame) -> Figure:
    """Test accuracy of a linear classifier on every layer, a line per network."""
    figure, axes = _chart()
    for k, (name, group) in enumerate(frame.groupby("network", sort=False)):
        colour, dash, marker = _style(k)
        ordered = group.sort_values("layer")
        accuracy = ordered["test_accuracy"].astype("float64")
        axes.plot(ordered["layer"], accuracy, color=colour, linestyle=dash, marker=marker,
                  markersize=4.5, linewidth=1.4, label=str(name))  # fmt: skip
    axes.set_ylim(0, 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer", size=9)
    axes.set_ylabel("linear probe, test accuracy", size=9)
    _legend(axes)
    return figure


def importances(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A bar per searched setting, groups side by side; a point per group where there are many.

    Args:
        frame: the table `importances`.
        names: what each row's group is called.
    """
    named = frame.assign(group=list(names))
    order = named.groupby("setting")["importance"].mean().sort_values().index.tolist()
    groups = list(named.groupby("group", sort=False))
    bars = len(groups) if len(groups) <= MOST_BARS else 1
    figure, axes = _chart(6.2, 0.9 + len(order) * (0.2 + 0.16 * bars))
    if len(groups) > MOST_BARS:
        places = [order.index(setting) for setting in named["setting"]]
        axes.scatter(named["importance"], places, color=SERIES[0], alpha=0.55, s=28, linewidths=0)
    for k, (name, group) in enumerate(groups if len(groups) <= MOST_BARS else []):
        values = group.set_index("setting")["importance"].reindex(order).to_numpy(dtype="float64")
        height = 0.8 / len(groups)
        at = np.arange(len(order)) + 0.4 - height * (k + 0.5)
        axes.barh(at, values, height=0.9 * height, color=_style(k)[0], label=str(name))
    axes.set_yticks(range(len(order)), order)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_xlim(-0.02, 1.03)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlabel("importance", size=9)
    _legend(axes)
    return figure


def correlations(square: pd.DataFrame) -> Figure:
    """Rank correlations of each two measures, from -1 to 1."""
    names = [quantity(name) for name in square.columns]
    values = square.to_numpy(dtype="float64")
    side = 1.6 + 0.42 * len(names)
    figure = Figure(figsize=(side, side), facecolor="white", layout=_layout())
    axes = figure.add_subplot()
    axes.imshow(np.ma.masked_invalid(values), cmap=colormaps[COLOUR_MAP], norm=Normalize(-1, 1))
    for i, j in np.ndindex(*values.shape):
        if not math.isnan(values[i, j]):
            colour = cell_colours(float(values[i, j]), -1, 1)[1]
            axes.text(
                j, i, f"{values[i, j]:z.2f}", size=7.5, color=colour, ha="center", va="center"
            )
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    return figure


def regions(frame: pd.DataFrame, wanted: Sequence[str]) -> Figure:
    """Means by region of the matrix, a panel per quantity and a line per loss and pair.

    Args:
        frame: what `comparison.regional` returned.
        wanted: quantities.
    """
    loss = "similarity_loss" if "similarity_loss" in frame else "loss"
    places = ["lower", "band", "upper"]
    figure = Figure(figsize=(2.5 * len(wanted) + 1.6, 2.7), facecolor="white", layout=_layout())
    all_axes = figure.subplots(1, len(wanted), squeeze=False)[0]
    keys = [
        c for c in frame.columns if c in ("sender", "receiver", loss) or c.startswith("factor.")
    ]
    for axes, name in zip(all_axes, wanted, strict=True):
        rows = frame[frame["quantity"] == name]
        for k, (key, group) in enumerate(rows.groupby(keys, sort=False, dropna=False)):
            colour, dash, marker = _style(k)
            values = group.set_index("region").reindex(places)
            known = dict(zip(keys, key, strict=True))
            title = f"{known['sender']} → {known['receiver']}, {known[loss]}"
            axes.errorbar(range(3), values["mean"], yerr=values["standard_error"].fillna(0), color=colour,
                          linestyle=dash, marker=marker, markersize=4, linewidth=1.2, capsize=2,
                          label=title)  # fmt: skip
        axes.set_title(quantity(name), size=9.5, loc="left")
        axes.set_xticks(range(3), places)
        axes.set_xlim(-0.3, 2.3)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=_SMALL)
    _legend(all_axes[-1])
    return figure


def trajectories(
    paths: Mapping[tuple[int, int], Sequence[tuple[np.ndarray, np.ndarray]]],
    rows: Sequence[int],
    columns: Sequence[int],
    label: str,
) -> Figure:
    """A small chart per cell, arranged as the matrix is, all on the same axes.

    Args:
        paths: (sender layer, receiver layer) -> (epochs, values in [0, 1]) of each of its trials.
        rows: sender layers.
        columns: receiver layers.
        label: what the values are.
    """
    cell = min(max(6.5 / max(len(rows), len(columns)), 0.45), 1.2)
    figure, axes = _chart(max(cell * len(columns) + 0.9, 3.4), max(cell * len(rows) + 1.0, 2.0))
    last = max((float(x.max()) for known in paths.values() for x, _ in known if len(x)), default=1)
    edge, room = 0.07, 0.86
    lines = [
        # One collection for all cells: a chart each would take seconds.
        np.column_stack([j + edge + room * x / (last or 1), i + 1 - edge - room * y])
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
        for x, y in paths.get((row, column), [])
    ]
    frames = [
        [(j + edge, i + edge), (j + edge, i + 1 - edge), (j + 1 - edge, i + 1 - edge)]
        for i in range(len(rows))
        for j in range(len(columns))
    ]
    axes.add_collection(LineCollection(frames, colors="#c3c8ce", linewidths=0.6))
    axes.add_collection(LineCollection(lines, colors=SERIES[0], linewidths=0.9))
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks(np.arange(len(columns)) + 0.5, [str(k) for k in columns])
    axes.set_yticks(np.arange(len(rows)) + 0.5, [str(k) for k in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"receiver layer; in each cell epochs 0 to {last:g}", size=9)
    axes.set_ylabel(f"sender layer; {label} 0 to 1", size=9)
    return figure


def images(pictures: Pictures, members: Sequence[Picture]) -> Figure:
    """Originals above what stitches into the image make of them, a row per stitch.

    Args:
        pictures: of the originals.
        members: the rows.
    """
    rows = [("the image", pictures.originals)]
    rows += [(f"layer {p.about['sender_layer']}, {p.about['loss']}", p.images) for p in members]
    columns = len(pictures.originals)
    titles = 1.5  # inches
    width = titles + 0.62 * columns
    figure = Figure(figsize=(width, 0.64 * len(rows) + 0.2), facecolor="white")
    room = {"wspace": 0.06, "hspace": 0.06, "left": titles / width, "right": 0.99, "top": 0.99,
            "bottom": 0.01}  # fmt: skip
    grid = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw=room)
    for line, (title, stack) in zip(grid, rows, strict=True):
        for axes, image in zip(line, stack, strict=True):
            shown = image.transpose(1, 2, 0)
            axes.imshow(
                shown[:, :, 0] if shown.shape[2] == 1 else shown, cmap="gray", vmin=0, vmax=255
            )
            axes.set_axis_off()
        line[0].text(-0.12, 0.5, title, transform=line[0].transAxes, size=7.5, ha="right", va="center",
                     parse_math=False)  # fmt: skip
    return figure
