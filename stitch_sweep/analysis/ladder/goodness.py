"""Whether a fitted model, or any monotone curve, describes a ladder at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from stitch_sweep.analysis.ladder.covariance import EXACT, Errors


def lack_of_fit(
    y: np.ndarray, sizes: np.ndarray, errors: Sequence[Errors], fitted: np.ndarray, parameters: int
) -> float | None:
    """Test a curve against one mean for each size, by the F test of lack of fit.

        F = ((RSS_curve - RSS_sizes) / (S - p)) / (RSS_sizes / (n - S))

    with S sizes and p parameters of the curve; RSS in the errors' whitened coordinates.

    Args:
        y: values, shape (n,).
        sizes: of the points, shape (n,).
        errors: candidates for the covariance, of which the likeliest around the curve is used.
        fitted: the curve's values, shape (n,).
        parameters: p.

    Returns:
        The p-value; None without repeated sizes, or with as many parameters as sizes.
    """
    levels, level = np.unique(sizes, return_inverse=True)
    between, within = len(levels) - parameters, len(y) - len(levels)
    if between < 1 or within < 1:
        return None

    def squares(candidate: Errors) -> float:
        return max(float(np.square(candidate.whiten(y - fitted)).sum()), EXACT)

    best = max(errors, key=lambda e: e.log_likelihood(np.array([squares(e)])).item())
    design = best.whiten(np.eye(len(levels))[level].T).T
    z = best.whiten(y)
    rest = float(np.square(z - design @ np.linalg.lstsq(design, z, rcond=None)[0]).sum())
    if rest <= EXACT * float(z @ z):
        return None  # equal sizes have equal values
    ratio = max(0.0, squares(best) - rest) / between / (rest / within)
    return float(stats.f.sf(ratio, between, within))


def monotone_lack_of_fit(
    y: np.ndarray, sizes: np.ndarray, errors: Sequence[Errors]
) -> float | None:
    """Test whether any rising or falling curve describes the points: see `lack_of_fit`.

    Its parameters are the levels of the isotonic regression of y on size.
    """
    p_values = []
    for increasing in (True, False):
        curve = IsotonicRegression(increasing=increasing).fit_transform(sizes, y)
        p_values.append(lack_of_fit(y, sizes, errors, curve, len(np.unique(curve))))
    known = [p for p in p_values if p is not None]
    return max(known) if known else None
