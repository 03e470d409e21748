"""Test a matrix's shape against row and column effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats


def row_and_column_test(values: pd.DataFrame, where: pd.DataFrame) -> float | None:
    """Test whether the region explains values beyond effects of sender layer and receiver layer.

    Null hypothesis: value = row effect + column effect + noise. The test adds two parameters, one for
    the lower and one for the upper region, and asks whether they explain more of the residuals than
    expected by chance: F = (explained / 2) / (rest / degrees of freedom).

    Residuals of an additive fit are correlated, so permuting them or flipping their signs is only
    approximately right. Rotating them within their space of (I - 1)(J - 1) dimensions is exact for
    normal noise of one variance (Langsrud, "Rotation tests", 2005). The p-value over all rotations has
    a closed form, that of the F distribution, so nothing is simulated.

    The test is about the accuracy scale. If the scale could be transformed freely, the hypothesis could
    never be rejected: a perfect triangle is a step function of u - v, a row effect plus a column
    effect. A gradient that saturates is not additive either and is often rejected, so a small p-value
    alone does not make a triangle.

    Args:
        values: accuracies, shape (I, J), NaN where a cell has none; rescaling does not change the
            result.
        where: the cells' regions, as `regions` returns them.

    Returns:
        The p-value; None if too few cells have a value.
    """
    defined = values.notna().to_numpy() & where.notna().to_numpy()
    rows, columns = np.nonzero(defined)
    y = values.to_numpy(dtype=np.float64)[defined]
    if not len(y):
        return None
    names = where.to_numpy()[defined]
    effects = np.concatenate(
        [rows[:, None] == np.unique(rows), columns[:, None] == np.unique(columns)], axis=1
    ).astype(np.float64)
    # Residuals are computed by projecting onto the span of the effects, whose basis is small. A basis
    # of the complement would take cells x cells numbers.
    vectors, sizes, _ = np.linalg.svd(effects, full_matrices=False)
    span = vectors[:, sizes > 1e-9]
    centered = y - y.mean()
    residual = centered - span @ (span.T @ centered)
    regions = np.stack([names == "lower", names == "upper"], axis=1).astype(np.float64)
    basis, lengths, _ = np.linalg.svd(regions - span @ (span.T @ regions), full_matrices=False)
    basis = basis[:, lengths > 1e-9]
    tested = basis.shape[1]
    freedom = len(y) - span.shape[1] - tested
    if tested == 0 or freedom < 1:
        return None
    total = float(residual @ residual)
    if total <= 1e-24 * float(y @ y):
        return 1.0  # rows and columns explain everything
    explained = float(np.sum((basis.T @ residual) ** 2))
    unexplained = max(total - explained, 1e-300)
    return float(stats.f.sf((explained / tested) / (unexplained / freedom), tested, freedom))
