"""Canonical correlation analysis: CCA, SVCCA and PWCCA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from stitch_sweep.core.bounds import From0
from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import (
    Calibrations,
    Invariance,
    Loss,
    LossContext,
    LossInputs,
    one_minus,
)
from stitch_sweep.losses.moments import Moments, over
from stitch_sweep.losses.rows import positions
from stitch_sweep.losses.whitening import inverse_root, singular_vectors

SHARE = 0.99
"""SVCCA keeps this much of the sum of squared singular values."""


class _Whitened(NamedTuple):
    cross: Tensor  # [p, q]: its singular values are the canonical correlations
    root_y: Tensor  # [q, q]
    yy: Tensor  # [q, q], correlations of y
    number: int  # min(rank x, rank y)


def _whitened(moments: Moments, ridge: float) -> _Whitened | None:
    """Both sides whitened; None where one is constant.

    Channels are standardised first. CCA doesn't notice, but what counts as rank, and as a small ridge,
    is then the same for channels of any scale.
    """
    x, y = moments.deviations_x(), moments.deviations_y()
    root_x, rank_x = inverse_root(
        over(moments.xx, torch.outer(x, x)), tolerance=len(x) * moments.noise, ridge=ridge
    )
    yy = over(moments.yy, torch.outer(y, y))
    root_y, rank_y = inverse_root(yy, tolerance=len(y) * moments.noise, ridge=ridge)
    if min(rank_x, rank_y) == 0:
        return None
    cross = root_x @ over(moments.xy, torch.outer(x, y)) @ root_y
    return _Whitened(cross, root_y, yy, min(rank_x, rank_y))


def _mean_correlation(cross: Tensor, number: int) -> Tensor:
    # The rest is 0 but for rounding; so is what a correlation exceeds 1 by.
    return torch.linalg.svdvals(cross)[:number].clamp(max=1.0).mean()


def _not_finite(moments: Moments) -> Tensor:
    return moments.xy.sum() * torch.nan


def cca(moments: Moments, *, ridge: float = 0.0) -> Tensor | None:
    """Mean canonical correlation of x and y.

        1/r sum_{i<=r} rho_i,   rho: singular values of R_xx^(-1/2) R_xy R_yy^(-1/2)

    with R the correlation matrices and r = min(rank x, rank y). Ranks disregard what is rounding in the
    precision the rows came in. In [0, 1]; 1 when the narrower side is an affine image of the wider one,
    so also when there are no more rows than one of them has channels. Symmetric; invariant to
    invertible affine maps of either side.

    Args:
        moments: of x [n, p] and y [n, q].
        ridge: added to every eigenvalue of R_xx and R_yy; 0 to measure.

    Returns:
        A scalar; None where one side is constant, NaN for rows that aren't finite.

    Source: Hotelling 1936; as a mean, Raghu et al. 2017 (arXiv 1706.05806).
    """
    if not moments.finite:
        return _not_finite(moments)
    found = _whitened(moments, ridge)
    return None if found is None else _mean_correlation(found.cross, found.number)


def svcca(moments: Moments, *, share: float = SHARE) -> Tensor | None:
    """CCA of the leading principal components of each side.

    Of each side are kept the fewest components that hold `share` of the variance, that is of the sum
    of squared singular values of the centred rows; then `cca` of these. The number kept is fixed under
    the gradient, not the directions. What is kept has at least (1 - share)/p of the variance in every
    direction, so no ridge is needed. Symmetric; invariant to rotation, one scale and a shift of either
    side, no more: scaling a channel changes what is kept.

    Args:
        moments: of x [n, p] and y [n, q].
        share: in (0, 1].

    Returns:
        As `cca`.

    Source: Raghu et al. 2017 (arXiv 1706.05806).
    """
    if not moments.finite:
        return _not_finite(moments)
    varies_x, varies_y = moments.deviations_x() != 0, moments.deviations_y() != 0
    root_x, rank_x = inverse_root(
        moments.xx * torch.outer(varies_x, varies_x),
        tolerance=len(varies_x) * moments.noise,
        share=share,
    )
    root_y, rank_y = inverse_root(
        moments.yy * torch.outer(varies_y, varies_y),
        tolerance=len(varies_y) * moments.noise,
        share=share,
    )
    if min(rank_x, rank_y) == 0:
        return None
    return _mean_correlation(root_x @ moments.xy @ root_y, min(rank_x, rank_y))


def pwcca(moments: Moments, *, ridge: float = 0.0) -> Tensor | None:
    """Canonical correlations weighted by how much of y each of y's canonical variates accounts for.

        sum_i a_i rho_i / sum_i a_i,   a_i = sum_c |<h_i, y_c>|,   i <= min(rank x, rank y)

    with h_i the i-th canonical variate of y, of norm 1, and y_c its centred channels. Not symmetric:
    the weights are of y, the expected side, and follow x under the gradient. In [0, 1]; invariant to
    invertible affine maps of x; of y only to a shift and one scale, because its channels are summed.
    Where canonical correlations are repeated their variates, and so the weights, are arbitrary.

    Args:
        moments: of x [n, p] and y [n, q].
        ridge: as of `cca`.

    Returns:
        As `cca`.

    Source: Morcos et al. 2018 (arXiv 1806.05759).
    """
    if not moments.finite:
        return _not_finite(moments)
    found = _whitened(moments, ridge)
    if found is None:
        return None
    correlations, vectors = singular_vectors(found.cross)
    number = found.number
    # <h_i, y_c> in units of y's channels before they were standardised.
    loadings = (vectors[:number] @ found.root_y @ found.yy) * moments.deviations_y()
    weights = loadings.abs().sum(dim=1)
    return (weights * correlations[:number].clamp(max=1.0)).sum() / weights.sum()


class _CanonicalLoss(Loss):
    needs_expected: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "": 0.03}
    invariance: ClassVar[Invariance] = "affine"
    calibration: ClassVar[Calibrations] = "affine"

    def _moments(self, inputs: LossInputs) -> Moments:
        assert inputs.expected is not None
        return Moments.of(positions(inputs.stitched), positions(inputs.expected))


@LOSSES.register("cca")
class CCA(_CanonicalLoss):
    """1 - the mean canonical correlation of stitched and expected channels, over positions.

        L = 1 - 1/r sum_{i<=r} rho_i;   see `cca`

    In [0, 1], without a unit; 1 where a side is constant. Blind to invertible affine maps of the
    channels, so nothing to learn for an affine stitch that keeps all of the sender's channels; see
    `cannot_teach`. Calibrated by an affine map. O(n C^2 + C^3), float64 inside.

    Args:
        context: facts of the cell; none are needed.
        ridge: added to the eigenvalues of both correlation matrices, which average 1, so that
            directions with little variance neither count fully nor have unbounded gradients. The
            measure has none.
    """

    def __init__(self, context: LossContext, *, ridge: From0 = 1e-3) -> None:
        super().__init__(context)
        self.ridge = ridge

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        return one_minus(cca(self._moments(inputs), ridge=self.ridge), inputs.stitched)


@LOSSES.register("svcca")
class SVCCA(_CanonicalLoss):
    """1 - SVCCA of stitched and expected channels, over positions.

        L = 1 - 1/k sum_{i<=k} rho_i   of the components that hold 0.99 of the variance; see `svcca`

    In [0, 1], without a unit; 1 where a side is constant. Blind to rotation, one scale and a shift,
    and nearly so to any affine map of the components it keeps, hence calibrated by an affine map. It
    can be lowered by giving up variance: components that are not kept need not correlate.
    O(n C^2 + C^3), float64 inside.
    """

    invariance: ClassVar[Invariance] = "isotropic"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        return one_minus(svcca(self._moments(inputs)), inputs.stitched)


@LOSSES.register("pwcca")
class PWCCA(_CanonicalLoss):
    """1 - PWCCA of stitched and expected channels, over positions, weighted by the expected side.

        L = 1 - sum_i a_i rho_i / sum_i a_i;   see `pwcca`

    In [0, 1], without a unit; 1 where a side is constant. Blind, calibrated and costly as `cca`, and as
    flat where that is; directions that hold more of the expected representation count for more.

    Args:
        context: facts of the cell; none are needed.
        ridge: as of `cca`.
    """

    def __init__(self, context: LossContext, *, ridge: From0 = 1e-3) -> None:
        super().__init__(context)
        self.ridge = ridge

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        return one_minus(pwcca(self._moments(inputs), ridge=self.ridge), inputs.stitched)
