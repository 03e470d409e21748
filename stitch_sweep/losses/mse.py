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
    r"""Squared error of the stitched representation, in units of the variance v, summed over channels.

    ```math
    L = \frac{1}{n} \sum_{p} \sum_c \frac{(s_{pc} - e_{pc})^2}{v}, \qquad v = \frac{1}{C} \sum_c \operatorname{Var}(e_c)
    ```

    v is the mean variance of the expected channels, measured once on the training set. With the plain
    element-wise mean instead of L, gradients would depend on the number of channels and on the scale of
    the layer. Even with L, the largest stable learning rate of SGD shrinks with the stitch's number of
    inputs, so one rate doesn't suit all cells.

    Use: to test whether the stitched representation equals the expected one.

    Assumes: the stitched representation must equal the expected one.

    Range: 0 and more. C for the best constant output.

    Cost: O(n C).
    """  # noqa: E501

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
