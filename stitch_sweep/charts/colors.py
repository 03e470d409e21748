"""The colours of figures, report and terminal: perceptually uniform, safe for the colour-blind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from stitch_sweep.analysis.matrix.matrices import Matrix

COLOUR_MAP = "viridis"

SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#7f7f7f", "#a67c00")
"""Lines and bars: told apart by colour-blind readers (after Okabe and Ito 2008), and with a contrast
of at least 3 against white and against the report's dark page."""


def value_range(matrices: Sequence[Matrix]) -> tuple[float, float]:
    """Low and high end of the scale that the matrices share.

    0 to 1 for accuracies, so that pictures of different sweeps compare; otherwise the extremes.
    """
    if all("accuracy" in matrix.value_name.split("_") for matrix in matrices):
        return 0.0, 1.0
    values = np.concatenate([matrix.values.to_numpy().ravel() for matrix in matrices])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def cell_colours(value: float, low: float, high: float) -> tuple[str, str]:
    """Background and readable foreground of a cell, as "#rrggbb"; values outside are clipped."""
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    rgb = np.array(colormaps[COLOUR_MAP](share)[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    # Above this luminance black has the higher WCAG contrast, below it white.
    return to_hex(tuple(rgb)), "#000000" if luminance > 0.179 else "#ffffff"


def colour_scale(steps: int = 32) -> list[tuple[float, str]]:
    """The colour map as (share of the range, "#rrggbb"), for whatever isn't matplotlib."""
    shares = np.linspace(0, 1, steps)
    return [(float(share), to_hex(colormaps[COLOUR_MAP](share))) for share in shares]
