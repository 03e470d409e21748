"""Squared distance to the expected representation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import Loss, LossInputs
from stitch_sweep.losses.rows import channels_last


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Compute the mean of (x - y)^2 over all values, a scalar; x and y have the same shape."""
    return (x - y).square().mean()


@LOSSES.register("mse")
class MeanSquaredError(Loss):
    """Squared error to the expected representation, in units of its variance, summed over channels.

        L = 1/(B H W) sum_{b,h,w} sum_c (s - e)^2 / v,   v = mean over channels of Var(e_c)

    v is measured once on the training set. The plain element-wise mean would divide gradients by the
    number of channels and by the scale of the layer. The stable step of SGD still shrinks with the length
    of the stitch's rows. The best constant has the value C. The loss has no invariance: the stitched
    representation must equal the expected representation.
    """

    needs_expected: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 0.01, "": 0.1}

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Compute the loss, a scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        assert inputs.expected is not None
        assert self.context.expected_variance is not None
        channels = channels_last(inputs.expected).shape[-1]
        # A constant expected representation has no scale; its error is then absolute.
        scale = self.context.expected_variance or 1.0
        return mean_squared_error(inputs.stitched, inputs.expected) * (channels / scale)
