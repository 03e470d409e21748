"""A calibration is a closed-form map after the stitch that corrects differences to which the loss is
invariant.

The column "calibrated by" names a group of maps. The calibration is the map of this group with the
least squared error on the training set; `accuracy_calibrated` is the test accuracy with this map. The
groups of `cosine` and `correlation` contain no negative scales. The group of a weighted sum is the
largest group that the groups of all terms contain.

If an affine stitch keeps all channels of the sender, the stitch and its affine calibration together are
the least-squares stitch, whatever loss trained the stitch. Then `accuracy_calibrated` of `cca`, `svcca`
and `pwcca` equals that of a converged `mse`, and shows nothing about these losses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.losses.base import CalibrationGroup
from stitch_sweep.losses.moments import Moments, divide_or_zero
from stitch_sweep.losses.rows import channels_last, positions
from stitch_sweep.losses.whitening import inverse_root
from stitch_sweep.stitches.shapes import channel_axis


class ChannelMap(nn.Module):
    """y = W x + b over the channels, the same at every position.

    Args:
        weight: W, [C', C].
        bias: b, [C'].
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C', H, W], [B, T, C] to [B, T, C'], or [B, C] to [B, C']."""
        y = channels_last(x) @ self.weight.T + self.bias
        return y.movedim(-1, 1 + channel_axis(x.shape[1:]))


class Calibration:
    """The map, among those of a group, that brings the stitched representation closest to the expected.

        argmin over (W, b) of the group of   sum over positions of |W s + b - e|^2

    A loss that is blind to a group of maps doesn't determine which of these maps the stitch learns, so
    the receiver may get a wrong scale or rotation. The best element of the group, fitted on training data
    and placed between stitch and receiver, corrects that. Computed in float64 from accumulated moments,
    in one pass and 24 C^2 bytes.

    - `none`: the identity.
    - `scale`: W = a I, b = 0, a >= 0.
    - `scale_shift`: W = a I, a >= 0.
    - `channel_affine`: W diagonal with entries >= 0, so the sign of a correlation isn't corrected.
    - `isotropic`: W = a Q, Q orthogonal: the Procrustes solution Q = V U^T for S_se = U D V^T, a =
      tr(D) / tr(S_ss).
    - `affine`: any W, by least squares; directions in which the stitched representation doesn't vary
      are mapped to 0.

    CKA is blind to more rotations than `isotropic` contains: to rotations of all C H W units of an image.
    Such a rotation can't be estimated from fewer images than units, and it mixes positions, which
    stitches can't do. An optimum that differs by a larger rotation is therefore not corrected.

    Args:
        group: as a loss declares it: `Loss.calibration` or `CombinedLoss.calibration`.

    Example:
        >>> calibration = Calibration("isotropic")
        >>> for x, y in train.pairs():
        ...     calibration.add(stitch(x), y)
        >>> calibrated = nn.Sequential(stitch, calibration.fit(), suffix)
    """

    def __init__(self, group: CalibrationGroup) -> None:
        self.group = group
        self._moments: Moments | None = None
        self._dtype = torch.float32

    @torch.no_grad()
    def add(self, stitched: Tensor, expected: Tensor) -> None:
        """Add images of the training set, both [B, *receiver shape], without padding."""
        if self.group == "none":
            return
        moments = Moments.of(positions(stitched), positions(expected))
        self._moments = moments if self._moments is None else self._moments.merged(moments)
        self._dtype = stitched.dtype

    @torch.no_grad()
    def fit(self) -> nn.Module:
        """Return the map, [B, *receiver shape] -> [B, *receiver shape], frozen, in the data's dtype.

        Raises:
            ValueError: no images were added, or representations are NaN or infinite.
        """
        if self.group == "none":
            return nn.Identity()
        moments = self._moments
        if moments is None or not moments.finite:
            raise ValueError("a calibration needs finite representations")
        weight = self._weight(moments)
        bias = moments.mean_y - weight @ moments.mean_x
        if self.group == "scale":
            bias = torch.zeros_like(bias)
        return ChannelMap(weight.to(self._dtype), bias.to(self._dtype)).eval()

    def _weight(self, m: Moments) -> Tensor:
        unit = torch.eye(len(m.mean_x), dtype=m.xx.dtype, device=m.xx.device)
        if self.group == "scale":
            products = m.xy.trace() + m.count * (m.mean_x @ m.mean_y)
            squares = m.xx.trace() + m.count * m.mean_x.square().sum()
            return divide_or_zero(products, squares).clamp(min=0) * unit
        if self.group == "scale_shift":
            return divide_or_zero(m.xy.trace(), m.xx.trace()).clamp(min=0) * unit
        if self.group == "channel_affine":
            squares = m.deviations_x().square()
            return divide_or_zero(m.xy.diagonal(), squares).clamp(min=0).diag()
        if self.group == "isotropic":
            left, singular, right = torch.linalg.svd(m.xy)
            return divide_or_zero(singular.sum(), m.xx.trace()) * (left @ right).T
        deviations = m.deviations_x()
        root, _ = inverse_root(
            divide_or_zero(m.xx, torch.outer(deviations, deviations)),
            tolerance=len(deviations) * m.noise,
        )
        slopes = divide_or_zero(m.xy.T, deviations) @ root @ root
        return divide_or_zero(slopes, deviations)
