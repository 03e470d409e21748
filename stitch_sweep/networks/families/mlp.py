"""Multi-layer perceptrons, whose representations are vectors."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from stitch_sweep.core.bounds import Depth, Width
from stitch_sweep.core.registry import FAMILIES
from stitch_sweep.networks.families.parts import initialize_weights


class HiddenLayer(nn.Module):
    """A linear map with bias, and a ReLU.

    Args:
        inputs: length of the input.
        outputs: length of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, inputs]` to `[B, outputs]`."""
        return self.relu(self.linear(x))


class MLP(nn.Module):
    """The image as a vector, hidden layers of equal width, linear head.

    Initial weights: He et al.'s (2015) with variance 2 / fan_in, biases 0, the head at torch's default,
    drawn from torch's global generator.

    Args:
        inputs: number of values of an image.
        num_classes: length of the logits.
        depth: number of hidden layers.
        width: units of each hidden layer.

    Attributes:
        layer_names: the layers of stitching: every hidden layer after its ReLU.
    """

    def __init__(self, inputs: int, num_classes: int, depth: int, width: int) -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth
        self.hidden = nn.Sequential(*(HiddenLayer(sizes[k], width) for k in range(depth)))
        self.fc = nn.Linear(width, num_classes)
        self.layer_names = [f"hidden.{k}" for k in range(depth)]
        initialize_weights(self, "fan_in")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images `[B, C, H, W]` to logits `[B, num_classes]`."""
        return self.fc(self.hidden(torch.flatten(x, 1)))


@FAMILIES.register("mlp")
def mlp(
    in_channels: int, num_classes: int, image_size: int = 32, *, depth: Depth, width: Width = 512
) -> MLP:
    """Multi-layer perceptron: `depth` hidden layers of `width` units with ReLUs. The input is the image
    as one vector.

    Layers: every hidden layer after its ReLU, a vector of w values.

    Short names: `mlp3` for depth 3, and likewise for other depths from 1 to 99.

    Limits: a network takes only images of the size that it was trained with.

    Args:
        in_channels: channels of the image.
        num_classes: length of the logits.
        image_size: pixels on a side; the network takes only images of this size.
        depth: number of hidden layers.
        width: units of each hidden layer.

    Example:
        >>> mlp(3, 10, depth=3, width=16)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return MLP(in_channels * image_size**2, num_classes, depth, width)


def named(name: str) -> dict[str, Any] | None:
    """Return the options of `mlpD`, D hidden layers, 1 to 99; None for any other name."""
    digits = re.fullmatch(r"mlp([1-9]\d?)", name)
    return {"depth": int(digits[1])} if digits else None


NAME_FORMS = ["mlpD with D from 1 to 99 (hidden layers)"]
