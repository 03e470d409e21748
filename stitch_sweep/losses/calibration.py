"""Closed-form maps that restore what a loss is blind to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.losses.base import Calibrations
from stitch_sweep.losses.moments import Moments, over
from stitch_sweep.losses.rows import channels_last, positions
from stitch_sweep.losses.whitening import inverse_root
from stitch_sweep.stitches.shapes import channel_axis


class ChannelMap(nn.Module):
    """y = W x + b over the channels, the same at every position.

    Args:
        weight: [C', C].
        bias: [C'].
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W], [B, T, C] -> [B, T, C'] or [B, C] -> [B, C']."""
        y = channels_last(x) @ self.weight.T + self.bias
        return y.movedim(-1, 1 + channel_axis(x.shape[1:]))


class Calibration:
    """The map of a group that takes the stitched closest to the expected representation.

        argmin over (W, b) of the group of   sum over positions of |W s + b - e|^2

    A loss that is blind to a group of maps leaves it to chance which of them the stitch ends at, and the
    receiver may see a wrong scale or rotation. Putting the best element, found on training data, between
    stitch and receiver takes that chance away. From accumulated moments in float64, one pass, 24 C^2
    bytes.

    - `none`: the identity.
    - `scale`: W = a I, b = 0, a >= 0.
    - `scale_shift`: W = a I, a >= 0.
    - `channel_affine`: W diagonal, no entry below 0: a correlation's sign is not for calibration to mend.
    - `isotropic`: W = a Q, Q orthogonal: the Procrustes solution Q = V U^T for S_se = U D V^T, a =
      tr(D) / tr(S_ss).
    - `affine`: any W, by least squares; directions in which the stitched representation doesn't vary
      are mapped to 0.

    CKA is blind to far more rotations than `isotropic` holds, those of all C H W units of an image.
    Among them are the rotations of channels, the same at every position. These are used, for two
    reasons: a rotation of C H W units can't be estimated from fewer images than units, and with that
    many it would fit whatever it got; and such a map mixes places, which no stitch trained here may do.
    An optimum that differs by a larger rotation is not mended by it.

    Args:
        group: as a loss declares it, `Loss.calibration` or `CombinedLoss.calibration`.

    Example:
        >>> calibration = Calibration("isotropic")
        >>> for batch, valid in train.chunks():
        ...     calibration.add(stitch(batch.sender)[:valid], batch.expected[:valid])
        >>> calibrated = nn.Sequential(stitch, calibration.fit(), suffix)
    """

    def __init__(self, group: Calibrations) -> None:
        self.group = group
        self._moments: Moments | None = None
        self._dtype = torch.float32

    @torch.no_grad()
    def add(self, stitched: Tensor, expected: Tensor) -> None:
        """Add images of the training set, both [B, *receiver shape], real ones only."""
        if self.group == "none":
            return
        moments = Moments.of(positions(stitched), positions(expected))
        self._moments = moments if self._moments is None else self._moments.merged(moments)
        self._dtype = stitched.dtype

    @torch.no_grad()
    def fit(self) -> nn.Module:
        """The map, [B, *receiver shape] -> [B, *receiver shape], frozen, in the dtype of the data.

        Raises:
            ValueError: nothing was added, or values that aren't finite.
        """
        if self.group == "none":
            return nn.Identity()
        m = self._moments
        if m is None or not m.finite:
            raise ValueError("a calibration needs finite representations")
        weight = self._weight(m)
        bias = m.mean_y - weight @ m.mean_x
        if self.group == "scale":
            bias = torch.zeros_like(bias)
        return ChannelMap(weight.to(self._dtype), bias.to(self._dtype)).eval()

    def _weight(self, m: Moments) -> Tensor:
        unit = torch.eye(len(m.mean_x), dtype=m.xx.dtype, device=m.xx.device)
        if self.group == "scale":
            products = m.xy.trace() + m.count * (m.mean_x @ m.mean_y)
            squares = m.xx.trace() + m.count * m.mean_x.square().sum()
            return over(products, squares).clamp(min=0) * unit
        if self.group == "scale_shift":
            return over(m.xy.trace(), m.xx.trace()).clamp(min=0) * unit
        if self.group == "channel_affine":
            return over(m.xy.diagonal(), m.deviations_x().square()).clamp(min=0).diag()
        if self.group == "isotropic":
            left, singular, right = torch.linalg.svd(m.xy)
            return over(singular.sum(), m.xx.trace()) * (left @ right).T
        deviations = m.deviations_x()
        root, _ = inverse_root(
            over(m.xx, torch.outer(deviations, deviations)), tolerance=len(deviations) * m.noise
        )
        return over(over(m.xy.T, deviations) @ root @ root, deviations)
