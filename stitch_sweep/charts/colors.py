"""Colors of figures, report and terminal: perceptually uniform and safe for color-blind readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, to_hex

from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.core.measures import ACCURACIES, COLUMNS

SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#7f7f7f", "#a67c00")
"""Colors of lines and bars. Color-blind readers can tell them apart (after Okabe and Ito 2008), and
their contrast is at least 3 against white and against the report's dark background."""

Dash = Literal["solid", "dashed", "dotted", "dashdot"]
Marker = Literal["circle", "square", "diamond", "triangle", "x", "plus"]
_DASHES: tuple[Dash, ...] = ("solid", "dashed", "dotted", "dashdot")
_MARKERS: tuple[Marker, ...] = ("circle", "square", "diamond", "triangle", "x", "plus")


@dataclass(frozen=True)
class SeriesStyle:
    """Color, dash and marker of a series, without reference to a drawing library."""

    color: str
    dash: Dash = "solid"
    marker: Marker = "circle"


def series_style(position: int) -> SeriesStyle:
    """Return the style of the series at a position; after six, colors repeat with another dash."""
    return SeriesStyle(
        SERIES[position % len(SERIES)],
        _DASHES[(position // len(SERIES)) % len(_DASHES)],
        _MARKERS[position % len(_MARKERS)],
    )


def value_range(matrices: Sequence[Matrix]) -> tuple[float, float]:
    """Return the lower and upper end of the color scale that matrices of one value share.

    Accuracies: 0 to 1, so that pictures of different sweeps can be compared. Similarities and
    agreements: the lowest value, at most 0, to 1. Differences of accuracies: symmetric around 0. Other
    values: the extremes.
    """
    values = np.concatenate([matrix.values.to_numpy().ravel() for matrix in matrices])
    if all("accuracy" in matrix.value_name.split("_") for matrix in matrices):
        return 0.0, 1.0
    if matrices[0].is_difference:
        farthest = float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values))) or 0.5
        return -farthest, farthest
    measure = COLUMNS.get(matrices[0].value_name)
    if (
        measure is not None
        and measure.name not in ACCURACIES
        and measure.direction == "higher"
        and measure.range[1] == 1
    ):
        return float(np.min(values, initial=0.0, where=~np.isnan(values))), 1.0
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def color_map(low: float, high: float) -> Colormap:
    """Return the color map of a scale: around a white 0 if its ends are symmetric."""
    return colormaps["RdBu_r" if low == -high else "viridis"]


def cell_colors(value: float, low: float, high: float) -> tuple[str, str]:
    """Return background and readable text color of a cell as "#rrggbb"; values are clipped."""
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    rgb = np.array(color_map(low, high)(share)[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    # Black has the higher WCAG contrast above this luminance, white below it.
    return to_hex(tuple(rgb)), "#000000" if luminance > 0.179 else "#ffffff"


def color_scale(low: float, high: float) -> list[tuple[float, str]]:
    """Return the color map of a scale as (share of the range, "#rrggbb") for other libraries."""
    shares, colors = np.linspace(0, 1, 32), color_map(low, high)
    return [(float(share), to_hex(colors(share))) for share in shares]
