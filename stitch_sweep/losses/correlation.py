"""Correlation, channel by channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import Calibrations, Invariance, Loss, LossInputs
from stitch_sweep.losses.moments import Moments, over
from stitch_sweep.losses.rows import positions


def correlation_sum(moments: Moments) -> tuple[Tensor, Tensor]:
    """Sum of the Pearson correlations of the channels x_c and y_c, and how many there are.

        sum_{c in V} cov(x_c, y_c) / sqrt(var(x_c) var(y_c)),   V: var(x_c), var(y_c) > 0

    Args:
        moments: of two matrices with equally many channels.

    Returns:
        Scalars: the sum, and |V|; channels without variance on either side are left out.
    """
    by = moments.deviations_x() * moments.deviations_y()
    return over(moments.xy.diagonal(), by).sum(), (by != 0).sum()


@LOSSES.register("correlation")
class Correlation(Loss):
    """1 - the mean correlation of stitched and expected channels, over positions.

        L = 1 - mean_c corr(s_c, e_c),   a row per image and place

    In [0, 2], without a unit; 1 where no channel varies. Blind to each channel's shift and positive
    scale, so the receiver may see wrong ones: calibrated by an affine map per channel. Two rows
    always correlate by 1 or -1 and teach nothing. O(n C^2), float64 inside.
    Source: the per-neuron correlation of Li et al. 2016 (arXiv 1511.07543).
    """

    needs_expected: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "": 0.03}
    invariance: ClassVar[Invariance] = "channel_affine"
    calibration: ClassVar[Calibrations] = "channel_affine"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        assert inputs.expected is not None
        moments = Moments.of(positions(inputs.stitched), positions(inputs.expected))
        total, channels = correlation_sum(moments)
        return (1 - total / channels.clamp(min=1)).to(inputs.stitched.dtype)
