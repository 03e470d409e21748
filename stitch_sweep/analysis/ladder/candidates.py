"""Candidates for a transition and for the errors' covariance, among which a fit chooses."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from stitch_sweep.analysis.ladder.covariance import EXACT, Errors
from stitch_sweep.analysis.ladder.fit import TENTHS
from stitch_sweep.analysis.ladder.points import shared_networks
from stitch_sweep.analysis.ladder.scale import SizeScale

PLACES = 40
"""Approximate number of places that are tried along the ladder."""

WIDTHS = (0.0, 0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8)
"""Widths of a logistic change, from one tenth of it to nine tenths, as shares of the ladder; 0 is a step.
At each place the widest change that fits within the ladder is tried too."""

# Share of the variance that is between networks. It is at least a half: with few points, a freer choice
# of weights fits the noise and makes intervals too short.
_BETWEEN = (0.5, 1.0)
# Share of that variance which pairs of the same networks have in common.
_SHARED = (0.0, 0.4, 0.8, 0.97)


class Changes:
    """Candidates for a transition: in the middle of some cells of places, with several widths.

    The middle 80 % of every candidate lies within the ladder.

    Args:
        cells: low end, middle and high end of each cell, shape (C, 3), on the ladder's scale.
        widths: of the middle 80 % of a change, as shares of the ladder.

    Attributes:
        cells: as given.
        cell: index of each candidate's cell, shape (D,).
        middles: each candidate's place, shape (D,).
        widths: each candidate's width, shape (D,).
    """

    def __init__(self, cells: np.ndarray, widths: Collection[float]) -> None:
        self.cells = cells
        candidates: list[tuple[int, float, float]] = []
        for k, middle in enumerate(cells[:, 1]):
            room = 2 * min(middle, 1 - middle)
            candidates += [(k, middle, width) for width in widths if width < room]
            if room > WIDTHS[1]:
                candidates.append((k, middle, room))
        table = np.array(candidates).reshape(-1, 3)
        self.cell, self.middles, self.widths = table[:, 0].astype(int), table[:, 1], table[:, 2]

    def shapes(self, t: np.ndarray) -> np.ndarray:
        """Compute the completed share of each change at positions `t` (n,): shape (D, n)."""
        return completed_share(t, self.middles[:, None], self.widths[:, None])


def completed_share(t: np.ndarray, middle: Any, width: Any) -> np.ndarray:
    """Compute the completed share of a change at `t`: a step where `width` is 0, else logistic."""
    t, middle, width = np.broadcast_arrays(t, middle, width)
    sharp = width == 0
    slope = TENTHS / np.where(sharp, 1.0, width)
    return np.where(sharp, (t > middle).astype("float64"), expit((t - middle) * slope))


def place_cells(scale: SizeScale, t: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """Divide the places from `lowest` to `highest` into cells: low end, middle and high end (C, 3).

    Each cell is within one gap between sizes that has at least two points on either side.

    Args:
        scale: of the ladder.
        t: positions of the points, shape (n,).
        lowest: lower end, on the scale.
        highest: upper end.
    """
    length = (highest - lowest) / PLACES
    cells: list[tuple[float, float, float]] = []
    for low, high in pairwise(scale.rungs):
        if min((t <= low).sum(), (t >= high).sum()) < 2:
            continue
        low, high = max(low, lowest), min(high, highest)
        if low < high:
            edges = np.linspace(low, high, max(2, round((high - low) / length)) + 1)
            cells += zip(edges[:-1], (edges[:-1] + edges[1:]) / 2, edges[1:], strict=True)
    return np.array(cells).reshape(-1, 3)


def error_candidates(scale: SizeScale, points: pd.DataFrame, shapes: np.ndarray) -> list[Errors]:
    """List the candidates for the errors' covariance; `fit_ladder` has the formula.

    Args:
        scale: of the ladder.
        points: n rows with `size`, `error` and, if networks are shared, `sender` and `receiver`.
        shapes: regressors of the transitions, shape (D, n).
    """
    n = len(points)
    variances = points["error"].fillna(points["error"].median()).fillna(1.0).to_numpy() ** 2
    between = (1.0,) if np.ptp(variances) <= EXACT * variances.max() else _BETWEEN
    variances = variances / variances.mean() if variances.any() else np.ones(n)
    common = shared_networks(points) if "sender" in points else np.eye(n)
    shared = _SHARED if np.any(common - np.diag(np.diag(common)) > 0) else (0.0,)
    lines = scale.lines(points["size"].to_numpy())
    return [
        Errors(h * ((1 - r) * np.eye(n) + r * common) + (1 - h) * np.diag(variances), lines, shapes)
        for h in between
        for r in shared
    ]
