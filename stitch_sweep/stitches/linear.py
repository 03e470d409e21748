"""A full linear map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.base import AffineStitch
from stitch_sweep.stitches.moments import Moments
from stitch_sweep.stitches.shapes import Shape, unfit

MAX_WEIGHTS = 2**27
"""More weights than this (half a GiB in float32) are refused: with an optimizer's state that is 2 GiB."""


@STITCHES.register("linear")
class LinearStitch(AffineStitch):
    """A full linear map with bias: S(x) = W flatten(x) + b, between any two shapes.

    Every value of the receiver may depend on every value of the sender, so nothing is assumed about
    space, and the capacity is D D' + D'.

    Args:
        sender: any shape, D values in all.
        receiver: any shape, D' values in all.

    Raises:
        InputError: W would have more than `MAX_WEIGHTS` entries.
    """

    def __init__(self, sender: Shape, receiver: Shape) -> None:
        super().__init__(sender, receiver)
        self.inputs, self.outputs = math.prod(sender), math.prod(receiver)
        self.positions = 1
        if (weights := self.inputs * self.outputs) > MAX_WEIGHTS:
            wanted = f"fewer weights than its {self.inputs} x {self.outputs} = {weights:,}"
            wanted += f" (the limit is {MAX_WEIGHTS:,}; between feature maps: 'conv1x1')"
            raise unfit("linear", sender, receiver, wanted)
        self.linear = nn.Linear(self.inputs, self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, *sender] -> [B, *receiver]."""
        y: Tensor = self.linear(self.rows(x))
        return y.reshape(len(x), *self.receiver)

    def matrix(self) -> Tensor:
        """[D', D]."""
        return self.linear.weight

    def offset(self) -> Tensor:
        """[D']."""
        return self.linear.bias

    @torch.no_grad()
    def set_map(self, weight: Tensor, bias: Tensor, moments: Moments | None = None) -> None:
        """Any W and b."""
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)

    def rows(self, x: Tensor) -> Tensor:
        """[B, D]."""
        return x.flatten(1)

    def target_rows(self, y: Tensor) -> Tensor:
        """[B, D']."""
        return y.flatten(1)

    def target_values(self, y: Tensor) -> Tensor:
        """[B, D']."""
        return y.flatten(1)

    def why_not(self, start: str) -> str | None:
        """Besides, two maps of as many values in another order aren't copies of each other."""
        if start == "identity" and len(self.receiver) > 1 and self.sender != self.receiver:
            return "the shapes differ"
        return super().why_not(start)
