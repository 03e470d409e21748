"""Pearson correlation, channel by channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import CalibrationGroup, Invariance, Loss, LossInputs
from stitch_sweep.losses.moments import Moments, divide_or_zero
from stitch_sweep.losses.rows import positions


def correlation_sum(moments: Moments) -> tuple[Tensor, Tensor]:
    """Sum the Pearson correlations of the channels x_c and y_c.

        sum_{c in V} cov(x_c, y_c) / sqrt(var(x_c) var(y_c)),   V: var(x_c), var(y_c) > 0

    Args:
        moments: of two matrices with equally many channels.

    Returns:
        Two scalars: the sum, and |V|, the number of channels that vary on both sides.
    """
    deviations = moments.deviations_x() * moments.deviations_y()
    return divide_or_zero(moments.xy.diagonal(), deviations).sum(), (deviations != 0).sum()


@LOSSES.register("correlation")
class Correlation(Loss):
    r"""1 - the Pearson correlation between stitched and expected channel, averaged over channels.

    ```math
    L = 1 - \frac{1}{C} \sum_c \operatorname{corr}(s_c, e_c)
    ```

    The loss ignores the shift and scale of each channel, so the stitch may learn wrong ones. The
    calibration corrects them with an affine map per channel.

    Use: to test whether each channel is the same up to scale and shift.

    Assumes: channels that vary.

    Range: 0 to 2. 1 if no channel varies.

    Flat for: a stitch that treats each channel separately; an affine stitch with one input value (a
    gray image); batches of at most 2 positions.

    Cost: O(n C^2), in float64.

    Source: the per-neuron correlation of Li et al. 2016, arXiv 1511.07543.
    """

    needs_expected: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "": 0.03}
    invariance: ClassVar[Invariance] = "channel_affine"
    calibration: ClassVar[CalibrationGroup] = "channel_affine"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Compute the loss, a scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        assert inputs.expected is not None
        moments = Moments.of(positions(inputs.stitched), positions(inputs.expected))
        total, channels = correlation_sum(moments)
        return (1 - total / channels.clamp(min=1)).to(inputs.stitched.dtype)
