"""Gap matrices: one network with layers knocked out and a stitch in their place.

A network without its layers f to f + n - 1 is stitched to itself, from layer f - 1 to layer f + n - 1.
The cells above the diagonal of a self-pair are therefore knock-outs. A gap matrix shows them by the
first removed layer (rows) and the number of removed layers (columns).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import pandas as pd

from stitch_sweep.analysis.matrix.matrix import GAP_AXES, Matrix


def is_knock_out(matrix: Matrix) -> bool:
    """Whether a matrix is a self-pair and only cells above its diagonal were run."""
    ran = matrix.values.notna() | matrix.failed
    cells = [(i, j) for i in ran.index for j in ran.columns if ran.loc[i, j]]
    return matrix.kind == "self-pair" and bool(cells) and all(i < j for i, j in cells)


def gap_matrix(matrix: Matrix) -> Matrix:
    """Rearrange the cells above the diagonal of a self-pair by the removed layers.

    Args:
        matrix: of one network with itself, shape (I, J).

    Returns:
        A matrix indexed by the first removed layer f, with the number n of removed layers as columns:
        the cell (f, n) is the matrix's cell (f - 1, f + n - 1). Both axes contain the values that occur
        in the matrix; a cell beyond the last layer is missing. The other attributes are the matrix's.

    Raises:
        ValueError: two networks, or no cell above the diagonal.

    Example:
        >>> gap_matrix(matrix).values.loc[2, 1]  # without layer 2  # doctest: +SKIP
        0.91
    """
    cells = [(i, j) for i in matrix.values.index for j in matrix.values.columns if i < j]
    if matrix.kind != "self-pair" or not cells:
        raise ValueError(f"{matrix.title} has no layers knocked out")
    rows = pd.Index(sorted({i + 1 for i, _ in cells}), name=GAP_AXES[0])
    columns = pd.Index(sorted({j - i for i, j in cells}), name=GAP_AXES[1])
    source = {(i + 1, j - i): (i, j) for i, j in cells}

    def rearrange(table: pd.DataFrame, empty: object) -> pd.DataFrame:
        rearranged = [
            [table.loc[source[f, n]] if (f, n) in source else empty for n in columns] for f in rows
        ]
        return pd.DataFrame(rearranged, index=rows, columns=columns)

    return replace(
        matrix,
        values=rearrange(matrix.values, float("nan")).astype("float64"),
        converged=rearrange(matrix.converged, pd.NA).astype("boolean"),
        failed=rearrange(matrix.failed, False).astype(bool),
        finished=rearrange(matrix.finished, 0).astype("int64"),
    )


def gap_matrices(matrices: Iterable[Matrix], knocked_out: Collection[str] = ()) -> Iterator[Matrix]:
    """Iterate over the gap matrices of those matrices that are knock-outs.

    Args:
        matrices: matrices of any kind.
        knocked_out: names of the networks from which the configuration removes layers, if known:
            their self-pairs have a gap matrix even if other cells were run too. Any other
            self-pair has a gap matrix if only cells above its diagonal were run.
    """
    for matrix in matrices:
        above = any(i < j for i in matrix.values.index for j in matrix.values.columns)
        configured = matrix.kind == "self-pair" and matrix.sender in knocked_out and above
        if configured or is_knock_out(matrix):
            yield gap_matrix(matrix)


def by_removed(gaps: Matrix) -> pd.DataFrame:
    """Summarize a gap matrix per number of removed layers.

    Args:
        gaps: a gap matrix.

    Returns:
        A row per number of removed layers that has a value: `layers_removed`, `mean`, `lowest`, `highest`
        and `lowest_first`, the first removed layer where it is lowest.
    """
    values = gaps.values.dropna(axis="columns", how="all")
    return pd.DataFrame(
        {
            GAP_AXES[1]: list(values.columns),
            "mean": values.mean().to_numpy(),
            "lowest": values.min().to_numpy(),
            "highest": values.max().to_numpy(),
            "lowest_first": values.idxmin().to_numpy(),
        }
    )
