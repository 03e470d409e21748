"""Closed forms: from the moments of a training set to the best map of a kind, in float64.

All have a free offset b = mean(t) - W mean(r), so only centred moments count. With the notation of
`Moments`: X = xx [D, D], Y = xy [D, C].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from stitch_sweep.stitches.moments import Moments, rounding

RIDGE_BELOW = 1e-10
"""Directions with less than this share of the largest variance don't survive float32 weights: storing
W rounds it by 1e-7 of itself, which is as much as such a direction can explain."""


class AffineMap(NamedTuple):
    """A map t = W r + b.

    Attributes:
        weight: W, [C, D].
        bias: b, [C].
        error: the sum of |W r + b - t|^2 over all positions.
    """

    weight: Tensor
    bias: Tensor
    error: float


def least_squares(moments: Moments, ridge_below: float = 0.0) -> AffineMap:
    """The affine map of least squared error: W = (X^+ Y)^T.

    X^+ is the pseudo-inverse by eigendecomposition: eigenvalues below D eps times the largest (or
    below what rounding a large mean leaves) are taken as 0, so W is the smallest of all equally good
    ones, and dead or exactly dependent channels are no trouble. Where one of the rest is below
    `ridge_below` times the largest, the ridge lambda = ridge_below times the largest is added to them
    all; nowhere else.

    Args:
        moments: of the training set.
        ridge_below: 0 for the exact optimum; `RIDGE_BELOW` for weights that are kept in float32.
    """
    return reduced_rank(moments, min(moments.xy.shape), ridge_below)


def reduced_rank(moments: Moments, rank: int, ridge_below: float = 0.0) -> AffineMap:
    """The affine map of least squared error whose W has at most this rank.

    Reduced-rank regression (Izenman 1975): with M = X^(-1/2) Y = U S V^T, W is the full solution
    projected onto the first `rank` right singular vectors of M, and the error is
    yy - sum of the first `rank` S^2. Truncating the SVD of the full W instead would ignore how much
    each direction of r varies.

    Args:
        moments: of the training set.
        rank: r >= 1; from min(C, D) on it limits nothing.
        ridge_below: see `least_squares`.
    """
    eigenvalues, vectors = torch.linalg.eigh(moments.xx)
    largest = eigenvalues[-1]
    least = torch.finfo(torch.float64).eps * largest + rounding(moments.count, moments.x_mean).max()
    kept = eigenvalues > len(eigenvalues) * least
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    regular = eigenvalues
    if len(eigenvalues) and eigenvalues[0] < ridge_below * largest:
        regular = eigenvalues + ridge_below * largest
    whitening = vectors / regular.sqrt()
    m = whitening.T @ moments.xy
    if rank < min(m.shape):
        right = torch.linalg.svd(m, full_matrices=False).Vh[:rank]
        m = m @ right.T @ right
    weight = (whitening @ m).T
    # <W, Y^T> is |m|^2 and tr(W X W^T) is |m|^2 with each row weighted by what the ridge left of it.
    left = (2 - eigenvalues / regular)[:, None]
    error = (moments.yy.sum() - (left * m.square()).sum()).item()
    return AffineMap(weight, _offset(moments, weight), max(0.0, error))


def per_channel(moments: Moments) -> AffineMap:
    """The best scale and shift of each channel alone; D = C.

    A channel without variance gets the scale 0.
    """
    variance, covariance = moments.x_squares(), moments.xy.diagonal()
    scale = torch.where(variance > 0, covariance / variance, 0.0)
    error = (moments.yy.sum() - (scale * covariance).sum()).item()
    weight = torch.diag(scale)
    return AffineMap(weight, _offset(moments, weight), max(0.0, error))


def procrustes(moments: Moments, scaled: bool = False) -> AffineMap:
    """The rotation, between unequal widths the semi-orthogonal map, that maximises tr(W Y).

    Schoenemann 1966: with Y = U S V^T, W = V U^T. For C >= D it is also the one of least squared
    error, since |W r| = |r| whatever W is; for C < D that has no closed form.

    Args:
        moments: of the training set.
        scaled: times the factor of least squared error, tr(W Y) / tr(W X W^T).
    """
    u, _, vh = torch.linalg.svd(moments.xy, full_matrices=False)
    weight = vh.T @ u.T
    if scaled:
        size = ((weight @ moments.xx) * weight).sum()
        trace = (weight.T * moments.xy).sum()
        weight = weight * (trace / size if size > 0 else torch.ones_like(size))
    return AffineMap(weight, _offset(moments, weight), max(0.0, moments.error(weight).item()))


def correlation_assignment(moments: Moments) -> Tensor:
    """The (partial) permutation that maximises the sum of correlations, as W [C, D] of 0 and 1.

    Every output gets at most one input, every input goes to at most one output, and min(C, D) do
    (Li et al. 2015, arXiv 1511.07543). What has no variance correlates with nothing.
    """
    x, y = moments.x_squares().sqrt(), moments.y_squares().sqrt()
    scale = torch.outer(y, x)
    correlation = torch.where(scale > 0, moments.xy.T / scale, 0.0)
    return _matched(correlation)


def best_permutation(moments: Moments, affine: bool) -> AffineMap:
    """The (partial) permutation of least squared error, found as an assignment.

    Args:
        moments: of the training set.
        affine: with the best scale and shift for each output; else 1 and 0.
    """
    n, x_mean, y_mean = moments.count, moments.x_mean, moments.y_mean
    x, xy = moments.x_squares(), moments.xy.T
    if affine:
        scales = torch.where(x > 0, xy / x, 0.0)
        weight = _matched(scales * xy) * scales
        error = (moments.yy.sum() - (weight * xy).sum()).item()
        return AffineMap(weight, _offset(moments, weight), max(0.0, error))
    # What an output gains over giving 0: |t|^2 - |r - t|^2.
    gain = 2 * (xy + n * torch.outer(y_mean, x_mean)) - (x + n * x_mean.square())
    weight = _matched(gain)
    squares = moments.yy + n * y_mean.square()
    error = (squares.sum() - (weight * gain).sum()).item()
    return AffineMap(weight, torch.zeros_like(y_mean), max(0.0, error))


def _offset(moments: Moments, weight: Tensor) -> Tensor:
    return moments.y_mean - weight @ moments.x_mean


def _matched(gain: Tensor) -> Tensor:
    """The assignment that maximises the summed gain [C, D], as a matrix of 0 and 1."""
    values: NDArray[np.float64] = gain.cpu().numpy()
    outputs, inputs = linear_sum_assignment(values, maximize=True)
    weight = torch.zeros_like(gain)
    weight[outputs.tolist(), inputs.tolist()] = 1
    return weight
