"""Layers of one network knocked out, with a stitch in their place.

Without its layers f to f + n - 1, a network is stitched to itself: from layer f - 1 to layer f + n - 1.
So the cells above the diagonal of a self-pair are knock-outs, and a gap matrix shows them by what is
missing: the first removed layer against the number of removed layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import pandas as pd

from stitch_sweep.analysis.matrix.matrices import GAP, Matrix


def is_knock_out(matrix: Matrix) -> bool:
    """Whether a matrix is of one network with itself and has cells above the diagonal only."""
    ran = matrix.values.notna() | matrix.failed
    cells = [(i, j) for i in ran.index for j in ran.columns if ran.loc[i, j]]
    return matrix.kind == "self-pair" and bool(cells) and all(i < j for i, j in cells)


def gap_matrix(matrix: Matrix) -> Matrix:
    """The cells above the diagonal of a self-pair, by what they leave out.

    Args:
        matrix: of one network with itself, shape (I, J).

    Returns:
        Values indexed by the first removed layer f, with the number n of removed layers as columns: the
        cell (f, n) is the matrix's cell (f - 1, f + n - 1). Both axes hold what occurs in the matrix; a
        cell beyond the last layer is missing. The rest is as in the matrix.

    Raises:
        ValueError: two networks, or no cell above the diagonal.

    Example:
        >>> gap_matrix(matrix).values.loc[2, 1]  # without layer 2  # doctest: +SKIP
        0.91
    """
    cells = [(i, j) for i in matrix.values.index for j in matrix.values.columns if i < j]
    if matrix.kind != "self-pair" or not cells:
        raise ValueError(f"{matrix.title} has no layers knocked out")
    rows = pd.Index(sorted({i + 1 for i, _ in cells}), name=GAP[0])
    columns = pd.Index(sorted({j - i for i, j in cells}), name=GAP[1])
    at = {(i + 1, j - i): (i, j) for i, j in cells}

    def table(of: pd.DataFrame, empty: object) -> pd.DataFrame:
        found = [[of.loc[at[f, n]] if (f, n) in at else empty for n in columns] for f in rows]
        return pd.DataFrame(found, index=rows, columns=columns)

    return replace(
        matrix,
        values=table(matrix.values, float("nan")).astype("float64"),
        converged=table(matrix.converged, pd.NA).astype("boolean"),
        failed=table(matrix.failed, False).astype(bool),
        finished=table(matrix.finished, 0).astype("int64"),
    )


def gap_matrices(found: Iterable[Matrix], asked: Collection[str] = ()) -> Iterator[Matrix]:
    """The gap matrix of each knock-out among some matrices.

    Args:
        found: matrices.
        asked: names of the networks that were to lose layers, where that is known: their self-pairs
            have a gap matrix even where other cells were run too. Else the cells that were run decide.
    """
    for matrix in found:
        above = any(i < j for i in matrix.values.index for j in matrix.values.columns)
        wanted = matrix.kind == "self-pair" and matrix.sender in asked and above
        if wanted or is_knock_out(matrix):
            yield gap_matrix(matrix)


def by_removed(gaps: Matrix) -> pd.DataFrame:
    """What a network keeps without one layer, without two and so on.

    Args:
        gaps: a gap matrix.

    Returns:
        A row per number of removed layers that has a value: `layers_removed`, `mean`, `lowest`, `highest`
        and `lowest_first`, the first removed layer where it is lowest.
    """
    found = gaps.values.dropna(axis="columns", how="all")
    return pd.DataFrame(
        {
            GAP[1]: list(found.columns),
            "mean": found.mean().to_numpy(),
            "lowest": found.min().to_numpy(),
            "highest": found.max().to_numpy(),
            "lowest_first": found.idxmin().to_numpy(),
        }
    )
