"""Order parameters: the shape of a stitching matrix in numbers.

Rows are I sender layers at depth u = i / (I - 1), columns J receiver layers at depth v = j / (J - 1).
The *band* contains the cells where |u - v| is at most half a step of the coarser of the two networks;
*lower* those where the sender is cut deeper than the receiver (u > v), *upper* those where it is cut
earlier. L, D and U are the mean rescaled accuracies of lower, band and upper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from stitch_sweep.analysis.matrix.indices import Floats, indices
from stitch_sweep.analysis.matrix.label_thresholds import THRESHOLDS, Thresholds, classify
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.core.errors import InputError

REGIONS = ("lower", "band", "upper")

REACHED = 0.9
"""Rescaled accuracy from which a sender layer reaches a receiver layer."""

LEAST_RANGE = 0.1
"""Smallest distance of the better network's accuracy from chance by which values are rescaled."""


@dataclass(frozen=True)
class OrderParameters:
    """The numbers that determine a matrix's label. Each is NaN where a region it needs has no value.

    Attributes:
        lower: L, mean rescaled accuracy where the sender is cut deeper than the receiver.
        band: D, mean over the band around equal depth.
        upper: U, mean where the sender is cut earlier than the receiver.
        triangle: L - U.
        diagonal: D - max(L, U).
        order: (L - U) / (D - U): near 1 for a triangle, near 0 for a diagonal, 2 for effects of
            rows and columns that are linear in depth; NaN where D - U < 0.05.
        cells: "lower", "band" and "upper" -> number of cells with a value.
    """

    lower: float
    band: float
    upper: float
    triangle: float
    diagonal: float
    order: float
    cells: dict[str, int]

    def label(self, thresholds: Thresholds = THRESHOLDS) -> str:
        """Return the label, one of `LABELS`; see `classify`."""
        return str(classify(self.lower, self.band, self.upper, thresholds))


def depths(layers: Sequence[int], last: int) -> Floats:
    """Compute the depths u = i / (I - 1) of layers, NaN for the image (layer -1).

    Args:
        layers: layer indices.
        last: the network's last layer, I - 1.

    Raises:
        InputError: the network has one layer, or a layer is beyond the last.

    Example:
        >>> depths([-1, 0, 2, 4], last=4)
        array([nan, 0. , 0.5, 1. ])
    """
    if last < 1:
        raise InputError("a network of one layer has no depth; stitching matrices need at least 2")
    if max(layers, default=0) > last:
        raise InputError(f"layer {max(layers)} is beyond the network's last layer, {last}")
    shares = np.array(layers, dtype=np.float64) / last
    shares[shares < 0] = np.nan
    return shares


def regions(
    values: pd.DataFrame, *, sender_layers: int | None = None, receiver_layers: int | None = None
) -> pd.DataFrame:
    """Assign each cell to a region.

    A cell is in the band when |u - v| <= max(1 / (I - 1), 1 / (J - 1)) / 2. The comparison uses whole
    numbers and is therefore exact; transposing a matrix swaps lower and upper exactly.

    Args:
        values: any table with sender layers as index and receiver layers as columns; its contents are
            not used.
        sender_layers: I, number of layers of the complete sender, counted from layer 0. If None, one
            more than the highest layer of `values`.
        receiver_layers: J, the same for the receiver.

    Returns:
        "lower", "band" or "upper", of the shape of `values`; NA where a layer is the image, or
        where one of the networks has one layer only and therefore no depth.

    Raises:
        InputError: a layer lies beyond its network.

    Example:
        >>> regions(pd.DataFrame(index=range(2), columns=range(3))).loc[0].tolist()
        ['band', 'band', 'upper']
    """
    rows, columns = ([int(k) for k in axis] for axis in (values.index, values.columns))
    sizes = []
    for role, layers, layer_count in (
        ("sender", rows, sender_layers),
        ("receiver", columns, receiver_layers),
    ):
        highest = max(layers, default=-1)
        if layer_count is not None and highest >= layer_count:
            raise InputError(
                f"{role} layer {highest} is beyond the {role}'s {layer_count} layers "
                f"(0 to {layer_count - 1})"
            )
        sizes.append((highest + 1 if layer_count is None else layer_count) - 1)
    i, j = np.array(rows)[:, None], np.array(columns)[None, :]
    # u - v in units of 1 / ((I - 1) (J - 1)).
    difference = i * sizes[1] - j * sizes[0]
    names = np.where(difference > 0, "lower", "upper").astype(object)
    names[2 * np.abs(difference) <= max(sizes)] = "band"
    names[np.broadcast_to((i < 0) | (j < 0) | (min(sizes) < 1), names.shape)] = pd.NA
    return pd.DataFrame(names, index=values.index, columns=values.columns)


def rescaled(values: pd.DataFrame, chance: float, best: float) -> pd.DataFrame:
    """Rescale accuracies: chance is 0, the better network's own accuracy is 1; not clipped.

    Args:
        values: accuracies in [0, 1], shape (I, J).
        chance: accuracy of guessing.
        best: the better of the two networks' own accuracies, NaN if unknown.

    Returns:
        (values - chance) / (best - chance); NaN everywhere if `best` is unknown or less than
        0.1 above chance.
    """
    return (values - chance) / float(_span(best, chance))


def rescaled_matrix(matrix: Matrix, chance: float, best: float) -> pd.DataFrame:
    """Rescale a matrix's values; see `rescaled`. Differences are divided by best - chance."""
    values = matrix.values + chance if matrix.is_difference else matrix.values
    return rescaled(values, chance, best)


def _span(best: ArrayLike, chance: float) -> Floats:
    span = np.asarray(best, dtype=np.float64) - chance
    return np.where(span >= LEAST_RANGE, span, np.nan)


def region_means(
    accuracies: Floats, best: Floats, chance: float, where: NDArray[np.object_]
) -> Floats:
    """Compute L, D and U of many versions of one matrix at once.

    Args:
        accuracies: shape (R, I J): R versions, each a matrix in one row; NaN where a cell has no value.
        best: shape (R,): the better network's accuracy in each version.
        chance: accuracy of guessing.
        where: shape (I J,): each cell's region, as `regions` gives it.

    Returns:
        Shape (3, R); NaN where a region has no value or `best` is near chance.
    """
    means = np.full((3, len(accuracies)), np.nan)
    for row, region in enumerate(REGIONS):
        cells = accuracies[:, in_region(where, region)]
        defined = ~np.isnan(cells)
        count = defined.sum(axis=1)
        total = np.where(defined, cells, 0).sum(axis=1)
        mean = np.divide(total, count, out=np.full(len(cells), np.nan), where=count > 0)
        means[row] = (mean - chance) / _span(best, chance)
    return means


def in_region(where: NDArray[np.object_], region: str) -> NDArray[np.bool_]:
    """Find the cells, of any shape, that belong to a region; NA belongs to none."""
    return np.asarray(np.where(pd.isna(where), "", where) == region, dtype=bool)


def order_parameters(values: pd.DataFrame, where: pd.DataFrame) -> OrderParameters:
    """Compute the order parameters of a rescaled matrix.

    Args:
        values: rescaled accuracies, shape (I, J), NaN where a cell has none.
        where: the cells' regions, as `regions` gives them.

    Example:
        >>> values = pd.DataFrame([[1.0, 0.2], [0.9, 1.0]])
        >>> order_parameters(values, regions(values)).triangle
        0.7
    """
    flat = values.to_numpy(dtype=np.float64).reshape(1, -1)
    names = where.to_numpy().ravel()
    # The values are rescaled already: chance is 0 and the best accuracy 1.
    means = [float(mean) for mean in region_means(flat, np.ones(1), 0.0, names)[:, 0]]
    triangle, diagonal, order = (float(x) for x in indices(*means))
    defined = ~np.isnan(flat[0])
    return OrderParameters(
        lower=means[0],
        band=means[1],
        upper=means[2],
        triangle=triangle,
        diagonal=diagonal,
        order=order,
        cells={region: int((in_region(names, region) & defined).sum()) for region in REGIONS},
    )


def reach(values: pd.DataFrame) -> pd.Series:
    """Find the farthest receiver layer that each sender layer reaches.

    Args:
        values: rescaled accuracies, shape (I, J).

    Returns:
        Per sender layer, the image included, the highest receiver layer from 0 on whose rescaled
        accuracy is at least `REACHED`; NA where the row has values and all are lower. Cells before
        the farthest may be lower or have failed. Rows without a value (not run, or failed) are
        skipped.
    """
    rows = values.loc[:, [k for k in values.columns if int(k) >= 0]].dropna(how="all")
    farthest = [
        max((int(k) for k in rows.columns if row[k] >= REACHED), default=pd.NA)
        for _, row in rows.iterrows()
    ]
    return pd.Series(farthest, index=rows.index, dtype="Int64", name="reach")
