"""Whether a fitted model, or any monotone curve, describes a ladder at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats
from scipy.optimize import isotonic_regression

from stitch_sweep.analysis.ladder.covariance import EXACT, Errors, random_residuals

_SIMULATIONS = 999
_EDGES = 32  # largest number of places where a bump may begin or end
# Share of the variance that a curve may leave without any test: its parameters are rounded.
_NEGLIGIBLE = 1e-6


def goodness_of_fit(
    y: np.ndarray,
    sizes: np.ndarray,
    errors: Sequence[Errors],
    fitted: np.ndarray,
    parameters: int,
    random: np.random.Generator,
) -> float:
    """Test a curve by `lack_of_fit` and by `remaining_pattern`.

    Args:
        y: values, shape (n,).
        sizes: of the points, shape (n,).
        errors: candidates for the covariance.
        fitted: the curve's values, shape (n,).
        parameters: number of parameters of the curve.
        random: source of the simulations.

    Returns:
        Twice the smaller p-value, at most 1 (Bonferroni).
    """
    pattern = remaining_pattern(y, sizes, errors, fitted, random)
    lack = lack_of_fit(y, sizes, errors, fitted, parameters)
    return pattern if lack is None else min(1.0, 2 * min(pattern, lack))


def likeliest_errors(
    y: np.ndarray, errors: Sequence[Errors], fitted: np.ndarray
) -> tuple[Errors, np.ndarray, float]:
    """Choose the covariance that is likeliest around a curve a + b `fitted`.

    Returns:
        The covariance, the curve's whitened direction (n,), and the squared residuals around it.
    """

    def fit(candidate: Errors) -> tuple[np.ndarray, float]:
        direction, _ = candidate.direction((fitted - fitted[0])[None])
        return direction[0], candidate.residuals(candidate.whiten(y)[None], direction).item()

    fits = [fit(candidate) for candidate in errors]
    likelihoods = [
        candidate.log_likelihood(np.array([squares])).item()
        for candidate, (_, squares) in zip(errors, fits, strict=True)
    ]
    k = int(np.argmax(likelihoods))
    return errors[k], *fits[k]


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
        The p-value; None without repeated sizes, with as many parameters as sizes, or where equal
        sizes have equal values.
    """
    levels, level = np.unique(sizes, return_inverse=True)
    between, within = len(levels) - parameters, len(y) - len(levels)
    if between < 1 or within < 1:
        return None
    best, _, squares = likeliest_errors(y, errors, fitted)
    design = best.whiten(np.eye(len(levels))[level].T).T
    z = best.whiten(y)
    rest = float(np.square(z - design @ np.linalg.lstsq(design, z, rcond=None)[0]).sum())
    if rest <= EXACT * float(z @ z):
        return None
    ratio = max(0.0, squares - rest) / between / (rest / within)
    return float(stats.f.sf(ratio, between, within))


def remaining_pattern(
    y: np.ndarray,
    sizes: np.ndarray,
    errors: Sequence[Errors],
    fitted: np.ndarray,
    random: np.random.Generator,
) -> float:
    """Test whether a change or a bump remains in the residuals of a curve.

    The statistic is the largest correlation of the residuals with any step, any logistic change and any
    bump (one value for the sizes from one to another, and 0 elsewhere), all without their part along the
    curve. It is compared with that of residuals in random directions. Sizes need not repeat.

    Args:
        y: values, shape (n,).
        sizes: of the points, shape (n,).
        errors: candidates for the covariance, of which the likeliest around the curve is used.
        fitted: the curve's values, shape (n,).
        random: source of the simulations.

    Returns:
        The p-value; 1 where the curve leaves nothing to test.
    """
    best, direction, squares = likeliest_errors(y, errors, fitted)
    z = best.whiten(y)
    if squares <= _NEGLIGIBLE * float(z @ z - (z @ best.constant) ** 2):
        return 1.0
    basis = np.vstack([best.constant, direction])
    patterns = np.vstack([best.shapes, best.direction(_bumps(sizes))[0]])
    patterns -= patterns @ basis.T @ basis
    lengths = np.linalg.norm(patterns, axis=1)
    # The curve itself, among the patterns, leaves a rounding error.
    patterns = patterns[lengths > 1e-6] / lengths[lengths > 1e-6, None]
    residuals = z - z @ basis.T @ basis
    noise = random.standard_normal((_SIMULATIONS, len(z)))
    simulated = random_residuals(np.zeros(len(z)), residuals, basis, noise)
    projections = np.vstack([residuals, simulated]) @ patterns.T
    largest = np.maximum(projections.max(axis=1), -projections.min(axis=1))
    return (1 + int((largest[1:] >= largest[0] * (1 - 1e-9)).sum())) / (1 + _SIMULATIONS)


def _bumps(sizes: np.ndarray) -> np.ndarray:
    """List the bumps from one size to another, shape (B, n); without those that reach an end."""
    levels, level = np.unique(sizes, return_inverse=True)
    count = min(len(levels) - 1, _EDGES)
    edges = np.unique(np.linspace(1, len(levels) - 1, count).round().astype(int))
    first, last = np.triu_indices(len(edges), 1)
    return ((level >= edges[first, None]) & (level < edges[last, None])).astype("float64")


def monotone_lack_of_fit(
    y: np.ndarray, sizes: np.ndarray, errors: Sequence[Errors]
) -> float | None:
    """Test whether any rising or falling curve describes the points: see `lack_of_fit`.

    Its parameters are the levels of the isotonic regression of y on size.

    Returns:
        The larger p-value of the two directions; 1 where the means of all sizes rise or fall, None
        without repeated sizes.
    """
    levels, level, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    if len(levels) == len(y):
        return None
    means = np.bincount(level, y) / counts
    p_values = []
    for increasing in (True, False):
        curve = isotonic_regression(means, weights=counts, increasing=increasing).x
        lack = lack_of_fit(y, sizes, errors, curve[level], len(np.unique(curve)))
        p_values.append(1.0 if lack is None else lack)
    return max(p_values)
