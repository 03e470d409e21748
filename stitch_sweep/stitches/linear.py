"""A full linear map between all values of two representations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.base import ChannelMixer
from stitch_sweep.stitches.moments import RegressionMoments
from stitch_sweep.stitches.shapes import Shape, channel_axis, shape_error

MAX_WEIGHTS = 2**27
"""Largest number of weights (half a GiB in float32; 2 GiB with an optimizer's state)."""


@STITCHES.register("linear")
class LinearStitch(ChannelMixer):
    r"""A full linear map with bias, between any two shapes.

    ```math
    S(x) = W \operatorname{flatten}(x) + b
    ```

    Every output value may depend on every input value, so the stitch ignores positions. D and D' are
    the numbers of input and output values.

    Use: between a map and a vector, or where positions don't correspond.

    Assumes: nothing about positions.

    Invariant to: invertible affine maps of all values.

    Joins: any two shapes with D D' of at most 2^27, including sequences of any length.

    Parameters: D' (D + 1).

    Multiply-adds: D D'.

    Args:
        sender: shape of the input, any, D values altogether.
        receiver: shape of the output, any, D' values altogether.

    Raises:
        InputError: W has more than `MAX_WEIGHTS` entries.
    """

    def __init__(self, sender: Shape, receiver: Shape) -> None:
        super().__init__(sender, receiver)
        self.inputs, self.outputs = math.prod(sender), math.prod(receiver)
        self.positions = 1
        if (weights := self.inputs * self.outputs) > MAX_WEIGHTS:
            needed = f"fewer weights than its {self.inputs} x {self.outputs} = {weights:,}"
            needed += f" (the limit is {MAX_WEIGHTS:,}); use 'conv1x1' between feature maps"
            raise shape_error("linear", sender, receiver, needed)
        self.linear = nn.Linear(self.inputs, self.outputs)
        axis = channel_axis(sender)
        self.row_shape = (math.prod(sender[:axis]), sender[axis], math.prod(sender[axis + 1 :]))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *sender] to [B, *receiver]."""
        y: Tensor = self.linear(self.rows(x))
        return y.reshape(len(x), *self.receiver)

    def matrix(self) -> Tensor:
        """Return W, [D', D]."""
        return self.linear.weight

    def offset(self) -> Tensor:
        """Return b, [D']."""
        return self.linear.bias

    @torch.no_grad()
    def set_map(
        self, weight: Tensor, bias: Tensor, moments: RegressionMoments | None = None
    ) -> None:
        """Set any W and b."""
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)

    def apply_map(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Apply other weights, W [D', D] and b [D']."""
        return functional.linear(self.rows(x), weight, bias).reshape(len(x), *self.receiver)

    def channel_values(self, x: Tensor) -> Tensor:
        """Return the channels at every position of the sender, [n, C]."""
        return x.movedim(1 + channel_axis(self.sender), 0).flatten(1).T

    def rows(self, x: Tensor) -> Tensor:
        """Flatten the inputs to [B, D]."""
        return x.flatten(1)

    def target_rows(self, y: Tensor) -> Tensor:
        """Flatten the targets to [B, D']."""
        return y.flatten(1)

    def target_values(self, y: Tensor) -> Tensor:
        """Flatten the targets to [B, D']."""
        return y.flatten(1)

    def explain_start_refusal(self, start: str) -> str | None:
        """Refuse an identity between different shapes too, because the order of their values differs."""
        if start == "identity" and len(self.receiver) > 1 and self.sender != self.receiver:
            return "the shapes differ"
        return super().explain_start_refusal(start)
