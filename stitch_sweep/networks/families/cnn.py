"""Plain convolutional networks, without skips and normalization."""

from __future__ import annotations

import itertools
import re
from typing import Any

import torch
from torch import nn

from stitch_sweep.core.bounds import Depth, Width
from stitch_sweep.core.registry import FAMILIES
from stitch_sweep.networks.families.parts import initialize_weights

_STAGES = 3


class ConvUnit(nn.Module):
    """A 3x3 convolution with bias, and a ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, in_channels, H, W]` to `[B, out_channels, H / stride, W / stride]`, rounded up."""
        return self.relu(self.conv(x))


class CNN(nn.Module):
    """3x3 convolutions, each with a ReLU, in three stages; average pool, linear head.

    Convolution k of d (from 0) is in stage s = floor(3 k / d), which has `width * 2**s` channels; a
    stage after the first begins with stride 2. Strides instead of pooling are those of Springenberg et
    al. 2015 (arXiv 1412.6806). Initial weights: He et al.'s (2015) with variance 2 / fan_in, biases 0,
    the head at torch's default, drawn from torch's global generator.

    Args:
        in_channels: channels of the image.
        num_classes: length of the logits.
        depth: d, the number of convolutions.
        width: channels of the first stage.

    Attributes:
        layer_names: the layers of stitching: every convolution after its ReLU.
    """

    def __init__(self, in_channels: int, num_classes: int, depth: int, width: int) -> None:
        super().__init__()
        stages = [_STAGES * k // depth for k in range(depth)]
        channels = [in_channels, *(width * 2**stage for stage in stages)]
        strides = [1] + [1 + after - before for before, after in itertools.pairwise(stages)]
        self.convs = nn.Sequential(
            *(ConvUnit(channels[k], channels[k + 1], strides[k]) for k in range(depth))
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels[-1], num_classes)
        self.layer_names = [f"convs.{k}" for k in range(depth)]
        initialize_weights(self, "fan_in")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images `[B, in_channels, H, W]` to logits `[B, num_classes]`."""
        return self.fc(torch.flatten(self.avgpool(self.convs(x)), 1))


@FAMILIES.register("cnn")
def cnn(
    in_channels: int, num_classes: int, image_size: int = 32, *, depth: Depth, width: Width = 64
) -> CNN:
    """Plain convolutional network: `depth` 3x3 convolutions with bias and ReLU, without normalization
    or skips.

    Layers: every convolution after its ReLU. Third k of the convolutions (k = 0 to 2) has w 2^k
    channels and side s / 2^k.

    Short names: `cnn6` for depth 6, and likewise for other depths from 1 to 99.

    Limits: none on the image size.

    Args:
        in_channels: channels of the image.
        num_classes: length of the logits.
        image_size: pixels on a side; any size is possible.
        depth: number of convolutions.
        width: channels of the first third of the convolutions; the second third has 2 times as many,
            the last third 4 times.

    Example:
        >>> cnn(3, 10, depth=6, width=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return CNN(in_channels, num_classes, depth, width)


def named(name: str) -> dict[str, Any] | None:
    """Return the options of `cnnD`, D convolutions, 1 to 99; None for any other name."""
    digits = re.fullmatch(r"cnn([1-9]\d?)", name)
    return {"depth": int(digits[1])} if digits else None


NAME_FORMS = ["cnnD with D from 1 to 99 (convolutions)"]
