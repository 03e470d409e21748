"""The points of a ladder: matrices and the sizes of their networks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from pandas.api import types
from scipy.sparse.csgraph import connected_components

from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.core.errors import InputError, nearest

Size = Literal["depth", "width", "parameters"]
SIZES: tuple[str, ...] = get_args(Size)
VALUES = ("order", "diagonal", "triangle")

POINT_COLUMNS = [
    "series",
    "sender",
    "receiver",
    "measure",
    "size",
    *VALUES,
    "low",
    "high",
    *(f"{value}_{end}" for value in VALUES[1:] for end in ("low", "high")),
    "label",
    "reason",
]


def ladder_points(
    verdicts: Iterable[Verdict],
    networks: pd.DataFrame,
    size: Size = "depth",
    *,
    controls: bool = False,
    self_pairs: bool = False,
) -> pd.DataFrame:
    """Make one point per matrix: the size of its networks and its order parameters.

    The size of a pair is that of both networks if they are equal, else the geometric mean of the two:
    sizes are compared by ratios, so their logarithms are averaged.

    Args:
        verdicts: the verdicts on the matrices.
        networks: a row per network, with the column `network` and the column that `size` names; a
            missing size makes the sizes of the network's pairs NaN.
        size: "depth" (blocks), "width" (base width in channels) or "parameters".
        controls: whether to include matrices of controls (untrained, class-only, the image).
        self_pairs: whether to include networks stitched to themselves. Their diagonal has an exact
            solution, so they are another experiment.

    Returns:
        Columns `series` (see `Matrix.series`, empty when nothing was crossed), `sender`,
        `receiver`, `measure` (the argument `size`), `size`, `order`, `diagonal`, `triangle`, `low`
        and `high` (the interval of `order`), `diagonal_low`, `diagonal_high`, `triangle_low`,
        `triangle_high`, `label` (the verdict's headline), `reason`; sorted by series and size. An
        undefined order parameter is NaN. If a label is withheld, all values are NaN, so that a fit
        counts the point among the undefined ones, and `reason` gives the reason; else it is empty.

    Raises:
        InputError: no such size; or the table lacks a column or a network, lists a network twice, or
            contains a size that is not a positive number.

    Example:
        >>> ladder_points(verdicts(results), networks, "depth")  # doctest: +SKIP
    """
    sizes = _read_sizes(networks, size)
    included = [
        verdict
        for verdict in verdicts
        if (controls or verdict.control is None)
        and (self_pairs or verdict.matrix.sender != verdict.matrix.receiver)
    ]
    unknown = {
        name for v in included for name in (v.matrix.sender, v.matrix.receiver) if name not in sizes
    }
    if unknown:
        raise InputError(
            *(
                f"network {name!r} has a matrix, but no row in the table of networks"
                for name in sorted(unknown)
            )
        )
    rows = [_point(verdict, size, sizes) for verdict in included]
    points = pd.DataFrame(rows, columns=POINT_COLUMNS)
    numbers = [name for name in POINT_COLUMNS if name not in _TEXTS]
    points[numbers] = points[numbers].astype("float64")
    order = ["series", "size", "sender", "receiver"]
    return points.sort_values(order, kind="stable").reset_index(drop=True)


_TEXTS = ("series", "sender", "receiver", "measure", "label", "reason")


_REASONS = {
    "gaps": "too many cells without a value",
    "unconverged": "most stitches did not converge",
}


def _point(verdict: Verdict, size: str, sizes: dict[str, float]) -> dict[str, Any]:
    matrix, parameters = verdict.matrix, verdict.parameters
    row: dict[str, Any] = {
        "series": matrix.series,
        "sender": matrix.sender,
        "receiver": matrix.receiver,
        "measure": size,
        "size": _mean_size(sizes[matrix.sender], sizes[matrix.receiver]),
        "label": verdict.headline,
        "reason": _REASONS.get(verdict.withheld or "", ""),
    }
    for value in VALUES:
        row[value] = getattr(parameters, value) if verdict.sound else math.nan
        interval = verdict.intervals.get(value) if verdict.sound else None
        prefix = "" if value == "order" else f"{value}_"
        row[f"{prefix}low"] = math.nan if interval is None else interval.low
        row[f"{prefix}high"] = math.nan if interval is None else interval.high
    return row


def _mean_size(sender: float, receiver: float) -> float:
    # Equal sizes are returned unchanged: rounding would make two different sizes of them.
    return sender if sender == receiver else math.sqrt(sender) * math.sqrt(receiver)


def _read_sizes(networks: pd.DataFrame, size: str) -> dict[str, float]:
    """Map each network to its size, checked."""
    if size not in SIZES:
        raise InputError(f"size {size!r}: {nearest(str(size), SIZES)}")
    missing = [name for name in ("network", size) if name not in networks.columns]
    if missing:
        raise InputError(f"the table of networks has no column {' and no column '.join(missing)}")
    twice = sorted(set(networks.loc[networks["network"].duplicated(), "network"].astype(str)))
    if twice:
        raise InputError(f"the table of networks lists {', '.join(twice)} more than once")
    try:
        values = networks[size].astype("Float64").to_numpy("float64", na_value=math.nan)
    except (TypeError, ValueError) as error:
        raise InputError(f"the table of networks: column {size} must contain numbers") from error
    wrong = [
        str(k) for k, v in zip(networks["network"], values, strict=True) if not _is_size(float(v))
    ]
    if wrong:
        raise InputError(
            f"the table of networks: the {size} of {', '.join(wrong)} is not a positive number"
        )
    return dict(zip(networks["network"].astype(str), map(float, values), strict=True))


def _is_size(value: float) -> bool:
    return math.isnan(value) or 0 < value < math.inf


def check_points(points: pd.DataFrame, value: str) -> pd.DataFrame:
    """Check a table of points, and return the columns that a fit reads.

    Args:
        points: as `ladder_points` returns it; only `size` and `value` are needed.
        value: "order", "diagonal" or "triangle".

    Returns:
        Columns `series`, `sender`, `receiver`, `measure`, `size`, `y` (the value) and `error`
        (half its interval, NaN where unknown). Points without `sender` or `receiver` get different
        names, so that they count as independent.

    Raises:
        InputError: no such value or column, a value that is not a number, a size that is not
            positive, or an interval whose low end is above its high end.
    """
    if value not in VALUES:
        raise InputError(f"value {value!r}: {nearest(str(value), VALUES)}")
    missing = [name for name in ("size", value) if name not in points.columns]
    if missing:
        raise InputError(f"the points have no column {' and no column '.join(missing)}")
    prefix = "" if value == "order" else f"{value}_"
    ends = [f"{prefix}low", f"{prefix}high"]
    problems = [
        f"column {name} of the points must contain numbers"
        for name in ("size", value, *ends)
        if name in points.columns
        and not types.is_numeric_dtype(points[name])
        and not points[name].isna().all()
    ]
    if problems:
        raise InputError(*problems)

    def numbers(name: str) -> np.ndarray:
        if name not in points.columns:
            return np.full(len(points), math.nan)
        return points[name].to_numpy("float64", na_value=math.nan)

    size, (low, high) = numbers("size"), map(numbers, ends)
    if not all(map(_is_size, size)):
        raise InputError("column size of the points must contain positive numbers")
    if np.any(low > high):
        raise InputError(f"{ends[0]} is above {ends[1]} in some point")
    own_names = [f"point {k}" for k in range(len(points))]

    def texts(name: str, default: Any) -> Any:
        return points[name].astype(str).to_numpy() if name in points.columns else default

    y, error = numbers(value), (high - low) / 2
    return pd.DataFrame(
        {
            "series": texts("series", ""),
            "sender": texts("sender", own_names),
            "receiver": texts("receiver", own_names),
            "measure": texts("measure", "size"),
            "size": size,
            "y": np.where(np.isfinite(y), y, math.nan),
            "error": np.where(np.isfinite(error), error, math.nan),
        },
        index=pd.RangeIndex(len(points)),
    )


def shared_networks(points: pd.DataFrame) -> np.ndarray:
    """Compute how much points share networks: 1 for the same two, 1/2 for one of two, 0 for none.

    Args:
        points: n rows, as `check_points` returns them.

    Returns:
        Shape (n, n): U U^T, where the rows of U are the points' networks, of length 1. It is positive
        semidefinite.
    """
    ends = points[["sender", "receiver"]].to_numpy()
    uses = (ends[:, :, None] == np.unique(ends)[None, None, :]).sum(axis=1).astype("float64")
    uses /= np.linalg.norm(uses, axis=1, keepdims=True)
    return uses @ uses.T


def merge_shared(points: pd.DataFrame) -> pd.DataFrame:
    """Average the points of one size whose pairs share networks, since they are not independent.

    Pairs that are linked through other pairs of their size (a to b, b to c) become one point too.

    Args:
        points: as `check_points` returns it.

    Returns:
        Columns `size`, `y` and `error`, a row per group of linked pairs.
    """
    sizes = points["size"].to_numpy()
    linked = (shared_networks(points) > 0) & (sizes[:, None] == sizes)
    group = connected_components(linked, directed=False)[1]
    merged = points[["size", "y", "error"]].groupby(group, sort=False).mean()
    return merged.reset_index(drop=True)
