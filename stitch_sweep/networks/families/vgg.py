"""VGG networks with BatchNorm for small images."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from stitch_sweep.core.bounds import Blocks, Width
from stitch_sweep.core.registry import FAMILIES
from stitch_sweep.networks.families.parts import check_halvings, initialize_weights

_NAMED = {
    "vgg11": [1, 1, 2, 2, 2],
    "vgg13": [2, 2, 2, 2, 2],
    "vgg16": [2, 2, 3, 3, 3],
    "vgg19": [2, 2, 4, 4, 4],
}


class ConvNormUnit(nn.Module):
    """A 3x3 convolution, BatchNorm and a ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, in_channels, H, W]` to `[B, out_channels, H, W]`."""
        return self.relu(self.norm(self.conv(x)))


class VGG(nn.Module):
    """Stages of 3x3 convolutions with a 2x2 max-pool between them, average pool, linear head.

    Stage s (from 0) has `width * 2**s` channels, `8 * width` at most (Simonyan and Zisserman 2015,
    arXiv 1409.1556, with BatchNorm). The last pool and the two large linear layers of that paper are
    omitted, because they are made for images of 224 x 224. Initial weights: He et al.'s (2015) with
    variance 2 / fan_out, BatchNorm at 1 and 0, the head at torch's default, drawn from torch's global
    generator.

    Args:
        in_channels: channels of the image.
        num_classes: length of the logits.
        blocks: convolutions of each stage.
        width: channels of the first stage.

    Attributes:
        layer_names: the layers of stitching: every convolution after its ReLU, and before a pool.
    """

    def __init__(self, in_channels: int, num_classes: int, blocks: list[int], width: int) -> None:
        super().__init__()
        channels = in_channels
        self.layer_names = []
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for stage, units in enumerate(blocks, start=1):
            if stage > 1:
                parts[f"pool{stage - 1}"] = nn.MaxPool2d(2)
            stage_channels = width * min(2 ** (stage - 1), 8)
            for unit in range(1, units + 1):
                parts[f"conv{stage}_{unit}"] = ConvNormUnit(channels, stage_channels)
                channels = stage_channels
                self.layer_names.append(f"features.conv{stage}_{unit}")
        self.features = nn.Sequential(parts)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialize_weights(self, "fan_out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images `[B, in_channels, H, W]` to logits `[B, num_classes]`."""
        return self.fc(torch.flatten(self.avgpool(self.features(x)), 1))


@FAMILIES.register("vgg")
def vgg(
    in_channels: int,
    num_classes: int,
    image_size: int = 32,
    *,
    blocks: Annotated[list[Blocks], Field(min_length=1, max_length=5)],
    width: Width = 64,
) -> VGG:
    """VGG with BatchNorm for small images: 3x3 convolutions, with max-pools between stages.

    There are no large linear layers before the head.

    Layers: every convolution after its ReLU, before the pool. Stage k (from 0) has maps of w min(2^k,
    8) channels and side s / 2^k.

    Short names: `vgg11`, `vgg13`, `vgg16` and `vgg19` for blocks [1, 1, 2, 2, 2], [2, 2, 2, 2, 2], [2,
    2, 3, 3, 3] and [2, 2, 4, 4, 4].

    Limits: one to five stages. The image must be large enough: its side is halved between stages.

    Source: Simonyan and Zisserman 2015, arXiv 1409.1556.

    Args:
        in_channels: channels of the image.
        num_classes: length of the logits.
        image_size: pixels on a side.
        blocks: convolutions of each stage.
        width: channels of the first stage; the stages have 1, 2, 4, 8 and 8 times `width` channels.

    Raises:
        InputError: the image is too small for this number of stages.

    Example:
        >>> vgg(3, 10, blocks=[1, 1], width=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    check_halvings("vgg", image_size, len(blocks) - 1)
    return VGG(in_channels, num_classes, blocks, width)


def named(name: str) -> dict[str, Any] | None:
    """Return the options of `vgg11`, `vgg13`, `vgg16` or `vgg19`; None for any other name."""
    return {"blocks": list(_NAMED[name])} if name in _NAMED else None


NAME_FORMS = [*_NAMED]
