"""Orthogonal Procrustes: the distance of two representations after the best scaled rotation."""

from __future__ import annotations

import torch
from torch import Tensor

from stitch_sweep.losses.moments import Moments


def procrustes(moments: Moments) -> Tensor | None:
    """Compute the disparity after the best rotation, reflection, scale and shift of x onto y.

        1 - (sum_i sigma_i)^2 / (tr(S_xx) tr(S_yy)),   sigma: singular values of S_xy

    This is the share of y's variance that no such map of x explains. It is the same in both directions: a
    distance in [0, 1], 0 for identical representations. Widths may differ; the narrower side is padded
    with zeros. Equal to `scipy.spatial.procrustes`.

    Args:
        moments: of x [n, p] and y [n, q].

    Returns:
        A scalar; None if one side is constant, NaN if rows aren't finite.

    Source: Gower 1975; Ding et al. 2021 (arXiv 2108.01661) compare it with CCA and CKA.
    """
    if not moments.finite:
        return moments.xy.sum() * torch.nan
    scale = moments.deviations_x().square().sum() * moments.deviations_y().square().sum()
    if scale == 0:
        return None
    return (1 - torch.linalg.svdvals(moments.xy).sum().square() / scale).clamp(min=0.0)
