"""Closed forms: the best map of a kind from the moments of a training set, in float64.

All have a free offset b = mean(t) - W mean(r), so they depend on centered moments only. In the notation
of `RegressionMoments`: X = xx [D, D], Y = xy [D, C].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stitch_sweep.stitches.moments import RegressionMoments, rounding_error

RIDGE_BELOW = 1e-10
"""Directions with less than this share of the largest variance are regularized for float32 weights.
Storing W in float32 changes it by a share of 1e-7, which is as much as such a direction can explain."""


class AffineMap(NamedTuple):
    """A map t = W r + b, and its error.

    Attributes:
        weight: W, [C, D].
        bias: b, [C].
        error: sum of |W r + b - t|^2 over all positions.
    """

    weight: Tensor
    bias: Tensor
    error: float


def least_squares(moments: RegressionMoments, ridge_below: float = 0.0) -> AffineMap:
    """Fit the affine map of least squared error: W = (S R^+ S Y)^T.

    S is the diagonal matrix of 1 / sqrt(X_dd), 0 for channels without variance, and R = S X S is the
    correlation matrix of r, so that channels of any scales count alike. R^+ is the pseudo-inverse by
    eigendecomposition. Eigenvalues below D eps times the largest eigenvalue (or below the rounding error
    of a large mean) count as 0. Of all optimal maps, W is therefore the smallest one for standardized
    channels, and dead or exactly dependent channels are harmless. If another eigenvalue is below
    `ridge_below` times the largest, a ridge of `ridge_below` times the largest is added to all
    eigenvalues.

    Args:
        moments: moments of the training set.
        ridge_below: 0 for the exact optimum; `RIDGE_BELOW` for weights that are stored in float32.
    """
    return reduced_rank(moments, min(moments.xy.shape), ridge_below)


def reduced_rank(moments: RegressionMoments, rank: int, ridge_below: float = 0.0) -> AffineMap:
    """Fit the affine map of least squared error whose W has at most a given rank.

    Reduced-rank regression (Izenman 1975): with M = R^(-1/2) S Y = A D V^T, W is the full solution
    projected onto the first `rank` right singular vectors of M, and the error is yy - sum of the first
    `rank` D^2. Truncating the SVD of the full W would not be optimal, because it ignores the variance of
    each direction of r. R and S are those of `least_squares`.

    Args:
        moments: moments of the training set.
        rank: r >= 1; ranks from min(C, D) on have no effect.
        ridge_below: see `least_squares`.
    """
    squares = moments.x_squares()
    scales = torch.where(squares > 0, squares.rsqrt(), 0.0)
    eigenvalues, vectors = torch.linalg.eigh(moments.xx * torch.outer(scales, scales))
    largest = eigenvalues[-1]
    errors = rounding_error(moments.count, moments.x_mean) * scales.square()
    least = torch.finfo(torch.float64).eps * largest + errors.max()
    kept = eigenvalues > len(eigenvalues) * least
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    regular = eigenvalues
    if len(eigenvalues) and eigenvalues[0] < ridge_below * largest:
        regular = eigenvalues + ridge_below * largest
    whitening = scales[:, None] * vectors / regular.sqrt()
    m = whitening.T @ moments.xy
    if rank < min(m.shape):
        right = torch.linalg.svd(m, full_matrices=False).Vh[:rank]
        m = m @ right.T @ right
    weight = (whitening @ m).T
    # <W, Y^T> is |m|^2; tr(W X W^T) is |m|^2 with each row weighted by eigenvalue / (eigenvalue + ridge).
    row_weights = (2 - eigenvalues / regular)[:, None]
    error = (moments.yy.sum() - (row_weights * m.square()).sum()).item()
    return AffineMap(weight, _fit_offset(moments, weight), max(0.0, error))


def per_channel(moments: RegressionMoments) -> AffineMap:
    """Fit the best scale and shift of each channel separately; D = C.

    A channel without variance gets the scale 0.
    """
    variance, covariance = moments.x_squares(), moments.xy.diagonal()
    scale = torch.where(variance > 0, covariance / variance, 0.0)
    error = (moments.yy.sum() - (scale * covariance).sum()).item()
    weight = torch.diag(scale)
    return AffineMap(weight, _fit_offset(moments, weight), max(0.0, error))


def procrustes(moments: RegressionMoments, scaled: bool = False) -> AffineMap:
    """Fit the rotation (between unequal widths the semi-orthogonal map) that maximizes tr(W Y).

    With Y = U S V^T, W = V U^T (Schoenemann 1966). For C >= D this map also has the least squared error,
    because |W r| = |r| for every such W; for C < D the least squared error has no closed form.

    Args:
        moments: moments of the training set.
        scaled: whether to multiply W by the factor with the least squared error, tr(W Y) / tr(W X W^T).
    """
    u, _, vh = torch.linalg.svd(moments.xy, full_matrices=False)
    weight = vh.T @ u.T
    if scaled:
        size = ((weight @ moments.xx) * weight).sum()
        trace = (weight.T * moments.xy).sum()
        weight = weight * (trace / size if size > 0 else torch.ones_like(size))
    return AffineMap(weight, _fit_offset(moments, weight), max(0.0, moments.error(weight).item()))


def correlation_assignment(moments: RegressionMoments) -> Tensor:
    """Fit the (partial) permutation that maximizes the sum of correlations, as W [C, D] of 0 and 1.

    Every output gets at most one input, every input goes to at most one output, and there are min(C, D)
    such pairs (Li et al. 2015, arXiv 1511.07543). The correlation of a channel without variance counts
    as 0.
    """
    x, y = moments.x_squares().sqrt(), moments.y_squares().sqrt()
    scale = torch.outer(y, x)
    correlation = torch.where(scale > 0, moments.xy.T / scale, 0.0)
    return _assign(correlation)


def best_permutation(moments: RegressionMoments, affine: bool) -> AffineMap:
    """Fit the (partial) permutation of least squared error, by solving an assignment problem.

    Args:
        moments: moments of the training set.
        affine: whether to fit a scale and a shift for each output too; otherwise they are 1 and 0.
    """
    n, x_mean, y_mean = moments.count, moments.x_mean, moments.y_mean
    x, xy = moments.x_squares(), moments.xy.T
    if affine:
        scales = torch.where(x > 0, xy / x, 0.0)
        weight = _assign(scales * xy) * scales
        error = (moments.yy.sum() - (weight * xy).sum()).item()
        return AffineMap(weight, _fit_offset(moments, weight), max(0.0, error))
    # The gain of each input over 0, for each output: |t|^2 - |r - t|^2.
    gain = 2 * (xy + n * torch.outer(y_mean, x_mean)) - (x + n * x_mean.square())
    weight = _assign(gain)
    squares = moments.yy + n * y_mean.square()
    error = (squares.sum() - (weight * gain).sum()).item()
    return AffineMap(weight, torch.zeros_like(y_mean), max(0.0, error))


def _fit_offset(moments: RegressionMoments, weight: Tensor) -> Tensor:
    return moments.y_mean - weight @ moments.x_mean


def _assign(gain: Tensor) -> Tensor:
    """Find the assignment that maximizes the summed gain [C, D], as a matrix of 0 and 1."""
    values: NDArray[np.float64] = gain.cpu().numpy()
    # Not at the top: the import takes half a second, and only this stitch needs it.
    from scipy.optimize import linear_sum_assignment

    outputs, inputs = linear_sum_assignment(values, maximize=True)
    weight = torch.zeros_like(gain)
    weight[outputs.tolist(), inputs.tolist()] = 1
    return weight
