"""Canonical correlation analysis: CCA, SVCCA and PWCCA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from stitch_sweep.core.bounds import From0
from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import (
    CalibrationGroup,
    Invariance,
    Loss,
    LossContext,
    LossInputs,
    one_minus,
)
from stitch_sweep.losses.moments import Moments, divide_or_zero
from stitch_sweep.losses.rows import positions
from stitch_sweep.losses.whitening import inverse_root, singular_vectors

SHARE = 0.99
"""Share of the sum of squared singular values that SVCCA keeps."""


class _Whitened(NamedTuple):
    cross: Tensor  # [p, q]; its singular values are the canonical correlations
    root_y: Tensor  # [q, q], inverse root of the correlation matrix of y
    yy: Tensor  # [q, q], correlation matrix of y
    number: int  # min(rank x, rank y), the number of canonical correlations


def _whiten(moments: Moments, ridge: float) -> _Whitened | None:
    """Whiten both sides; None if one side is constant.

    Channels are standardized first. CCA is invariant to that, and the numerical rank and the ridge then
    don't depend on the scales of the channels.
    """
    x, y = moments.deviations_x(), moments.deviations_y()
    root_x, rank_x = inverse_root(
        divide_or_zero(moments.xx, torch.outer(x, x)), tolerance=len(x) * moments.noise, ridge=ridge
    )
    yy = divide_or_zero(moments.yy, torch.outer(y, y))
    root_y, rank_y = inverse_root(yy, tolerance=len(y) * moments.noise, ridge=ridge)
    if min(rank_x, rank_y) == 0:
        return None
    cross = root_x @ divide_or_zero(moments.xy, torch.outer(x, y)) @ root_y
    return _Whitened(cross, root_y, yy, min(rank_x, rank_y))


def _mean_correlation(cross: Tensor, number: int) -> Tensor:
    # Further singular values, and excesses over 1, are rounding errors.
    return torch.linalg.svdvals(cross)[:number].clamp(max=1.0).mean()


def _undefined(moments: Moments) -> Tensor:
    """Return NaN, with a gradient."""
    return moments.xy.sum() * torch.nan


def cca(moments: Moments, *, ridge: float = 0.0) -> Tensor | None:
    """Compute the mean canonical correlation of x and y.

        1/r sum_{i<=r} rho_i,   rho: singular values of R_xx^(-1/2) R_xy R_yy^(-1/2)

    R are the correlation matrices, r = min(rank x, rank y). Ranks ignore rounding errors in the precision
    of the rows. In [0, 1]; 1 if the narrower side is an affine image of the wider side, and therefore
    also if one side has at least as many channels as there are rows. Symmetric; invariant to invertible
    affine maps of either side.

    Args:
        moments: of x [n, p] and y [n, q].
        ridge: added to every eigenvalue of R_xx and R_yy; 0 for a measure.

    Returns:
        A scalar; None if one side is constant, NaN if rows aren't finite.

    Source: Hotelling 1936; as a mean, Raghu et al. 2017 (arXiv 1706.05806).
    """
    if not moments.finite:
        return _undefined(moments)
    whitened = _whiten(moments, ridge)
    return None if whitened is None else _mean_correlation(whitened.cross, whitened.number)


def svcca(moments: Moments, *, share: float = SHARE) -> Tensor | None:
    """Compute the CCA of the leading principal components of each side.

    Each side keeps the fewest components whose share of the variance (the sum of squared singular values
    of the centered rows) is at least `share`; the result is `cca` of these. In the gradient, the number
    of components is fixed, but their directions are not. Every kept direction has at least (1 - share)/p
    of the variance, so no ridge is needed. Symmetric; invariant to rotation, one scale and a shift of
    either side only: scaling a channel changes which components are kept.

    Args:
        moments: of x [n, p] and y [n, q].
        share: in (0, 1].

    Returns:
        As for `cca`.

    Source: Raghu et al. 2017 (arXiv 1706.05806).
    """
    if not moments.finite:
        return _undefined(moments)
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
    """Compute canonical correlations weighted by the share of y that each canonical variate explains.

        sum_i a_i rho_i / sum_i a_i,   a_i = sum_c |<h_i, y_c>|,   i <= min(rank x, rank y)

    h_i is the i-th canonical variate of y, of norm 1; y_c are the centered channels of y. Not symmetric:
    the weights belong to y, the expected side. The gradient includes the weights' dependence on x. In [0,
    1]; invariant to invertible affine maps of x; for y only to a shift and one scale, because its
    channels are summed. If canonical correlations are equal, their variates are arbitrary, and therefore
    the weights are, too.

    Args:
        moments: of x [n, p] and y [n, q].
        ridge: as for `cca`.

    Returns:
        As for `cca`.

    Source: Morcos et al. 2018 (arXiv 1806.05759).
    """
    if not moments.finite:
        return _undefined(moments)
    whitened = _whiten(moments, ridge)
    if whitened is None:
        return None
    correlations, vectors = singular_vectors(whitened.cross)
    number = whitened.number
    # <h_i, y_c> in units of y's channels before standardization.
    loadings = (vectors[:number] @ whitened.root_y @ whitened.yy) * moments.deviations_y()
    weights = loadings.abs().sum(dim=1)
    return (weights * correlations[:number].clamp(max=1.0)).sum() / weights.sum()


class _CanonicalLoss(Loss):
    """Common declarations of the CCA family."""

    needs_expected: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "": 0.03}
    invariance: ClassVar[Invariance] = "affine"
    calibration: ClassVar[CalibrationGroup] = "affine"

    def _moments(self, inputs: LossInputs) -> Moments:
        assert inputs.expected is not None
        return Moments.of(positions(inputs.stitched), positions(inputs.expected))


@LOSSES.register("cca")
class CCA(_CanonicalLoss):
    r"""1 - the mean of the canonical correlations between stitched and expected channels.

    ```math
    L = 1 - \frac{1}{r} \sum_{i=1}^{r} \rho_i, \qquad r = \min(\operatorname{rank} s, \operatorname{rank} e)
    ```

    The canonical correlations rho are the singular values of the cross-covariance of the whitened s and
    e. A direction counts only if its variance exceeds the rounding error of the representation.

    Use: to test whether the representation is the same up to any affine map.

    Assumes: at least 10 (D + C') distinct positions in a batch, for a stitch with D inputs and C'
    outputs at a position. With fewer positions, even independent data have a high canonical
    correlation, and Stitch Sweep warns.

    Range: 0 to 1. 1 if s or e is constant.

    Flat for: an affine stitch without rank limit that keeps all the sender's channels; batches with at
    most C + 1 positions.

    Cost: O(n C^2 + C^3), in float64.

    Source: Hotelling 1936.

    Args:
        context: facts of the cell; not used.
        ridge: constant added to the eigenvalues (mean 1) of both correlation matrices. It reduces the
            weight of directions with little variance and bounds their gradients. The measure `cca` has
            no ridge.
    """  # noqa: E501

    def __init__(self, context: LossContext, *, ridge: From0 = 1e-3) -> None:
        super().__init__(context)
        self.ridge = ridge

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Compute the loss, a scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        return one_minus(cca(self._moments(inputs), ridge=self.ridge), inputs.stitched)


@LOSSES.register("svcca")
class SVCCA(_CanonicalLoss):
    r"""1 - SVCCA (singular vector CCA) of stitched and expected channels.

    ```math
    L = 1 - \frac{1}{k} \sum_{i=1}^{k} \rho_i
    ```

    Of s and of e, only the fewest principal components that explain 0.99 of the variance are kept. The
    rho are the k canonical correlations of the kept components. The loss is nearly invariant to any
    affine map of the kept components, so it is calibrated by an affine map. A stitch can lower this
    loss by reducing the variance of components that correlate little, because components that aren't
    kept don't count.

    Use: to test the same as with `cca`, without directions of little variance.

    Assumes: as `cca`.

    Range: 0 to 1. 1 if s or e is constant.

    Flat for: stitches that can only rotate, scale and shift; an affine stitch with one input value;
    batches of at most 2 positions. Where `cca` is flat, the stitch learns only to reduce variance.

    Cost: O(n C^2 + C^3), in float64.

    Source: Raghu et al. 2017, arXiv 1706.05806.
    """

    invariance: ClassVar[Invariance] = "isotropic"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Compute the loss, a scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        return one_minus(svcca(self._moments(inputs)), inputs.stitched)


@LOSSES.register("pwcca")
class PWCCA(_CanonicalLoss):
    r"""1 - PWCCA (projection-weighted CCA) of stitched and expected channels.

    ```math
    L = 1 - \frac{\sum_i a_i \rho_i}{\sum_i a_i}, \qquad a_i = \sum_c |\langle h_i, e_c \rangle|
    ```

    rho are the canonical correlations, as in `cca`, and h_i the canonical variates of e. A direction has
    more weight if it explains more of e.

    Use: to test the same as with `cca`, but with directions weighted by the share of e that they
    explain.

    Assumes: as `cca`.

    Range: 0 to 1. 1 if s or e is constant.

    Flat for: the stitches and batches for which `cca` is flat.

    Cost: O(n C^2 + C^3), in float64.

    Source: Morcos, Raghu and Bengio 2018, arXiv 1806.05759.

    Args:
        context: facts of the cell; not used.
        ridge: as for `cca`.
    """

    def __init__(self, context: LossContext, *, ridge: From0 = 1e-3) -> None:
        super().__init__(context)
        self.ridge = ridge

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Compute the loss, a scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        return one_minus(pwcca(self._moments(inputs), ridge=self.ridge), inputs.stitched)
