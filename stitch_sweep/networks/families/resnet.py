"""Residual networks for small images, with or without skips."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from stitch_sweep.core.bounds import Blocks, Width
from stitch_sweep.core.registry import FAMILIES
from stitch_sweep.networks.families.parts import initialize_weights

# Excluded if it has its default, so that the recipes of older zoo networks keep their hashes.
Skip = Annotated[Literal["residual", "none"], Field(exclude_if=lambda skip: skip == "residual")]

_NAMED = {"resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3]}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip (He et al. 2016, figure 2).

    The skip is the identity, or a 1x1 convolution with BatchNorm where stride or channels change
    (option B of that paper). Without the skip, the block is the plain block of that paper's section 3.3.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution and of the skip.
        skip: `residual`, or `none` for no skip.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, skip: Skip) -> None:
        super().__init__()
        self.residual = skip == "residual"
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if self.residual and (stride != 1 or in_channels != out_channels):
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, in_channels, H, W]` to `[B, out_channels, H / stride, W / stride]`, rounded up."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if not self.residual:
            return self.relu2(y)
        skip = x if self.downsample is None else self.downsample(x)
        return self.relu2(y + skip)


class ResNet(nn.Module):
    """3x3 stem with stride 1, no max-pool, four stages of blocks, average pool, linear head.

    Stage s (0 to 3) has `width * 2**s` channels; stages 1 to 3 begin with stride 2. No operation works
    in place, so a suffix of the network can't overwrite the output of a prefix. Parameters have the
    names of torchvision's ResNet. Initial weights: He et al.'s (2015) normal distribution with variance
    2 / fan_out for convolutions, BatchNorm at weight 1 and bias 0, the head at torch's default, drawn
    from torch's global generator.

    Args:
        in_channels: channels of the image.
        num_classes: length of the logits.
        blocks: blocks per stage, four numbers.
        width: channels of the stem and the first stage.
        skip: `residual`, or `none` for the plain network with the same shapes at every layer.

    Attributes:
        layer_names: the layers of stitching: the stem after its ReLU, then every block after its
            last ReLU.
    """

    def __init__(
        self, in_channels: int, num_classes: int, blocks: list[int], width: int, skip: Skip
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(width, width, blocks[0], 1, skip)
        self.layer2 = _stage(width, 2 * width, blocks[1], 2, skip)
        self.layer3 = _stage(2 * width, 4 * width, blocks[2], 2, skip)
        self.layer4 = _stage(4 * width, 8 * width, blocks[3], 2, skip)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, num_classes)
        self.layer_names = ["relu"] + [
            f"layer{stage}.{block}" for stage, n in enumerate(blocks, start=1) for block in range(n)
        ]
        initialize_weights(self, "fan_out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images `[B, in_channels, H, W]` to logits `[B, num_classes]`."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _stage(
    in_channels: int, out_channels: int, blocks: int, stride: int, skip: Skip
) -> nn.Sequential:
    rest = [BasicBlock(out_channels, out_channels, 1, skip) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride, skip), *rest)


@FAMILIES.register("resnet")
def resnet(
    in_channels: int,
    num_classes: int,
    image_size: int = 32,
    *,
    blocks: Annotated[list[Blocks], Field(min_length=4, max_length=4)],
    width: Width = 64,
    skip: Skip = "residual",
) -> ResNet:
    """Residual network for small images: a 3x3 stem, and four stages of blocks with two convolutions.

    With `skip: none`, a block is relu(H(x)) instead of relu(H(x) + x), where H is the block's
    convolutions with BatchNorm. This is the plain network of He et al., without 1x1 convolutions. The
    shapes of all layers stay the same, and there is a cut point after every operation.

    Layers: the stem, and every block after its ReLU. Stage k (0 to 3) has maps of w 2^k channels and
    side s / 2^k.

    Short names: `resnet1111` for blocks [1, 1, 1, 1], and likewise for other digits from 1 to 9;
    `resnet10`, `resnet18` and `resnet34` for blocks [1, 1, 1, 1], [2, 2, 2, 2] and [3, 4, 6, 3].

    Limits: none on the image size.

    Source: He et al. 2016, arXiv 1512.03385.

    Args:
        in_channels: channels of the image.
        num_classes: length of the logits.
        image_size: pixels on a side; any size is possible.
        blocks: number of blocks in each of the four stages, at least 1.
        width: channels of the first stage; the stages have 1, 2, 4 and 8 times `width` channels.
        skip: `residual`; or `none`, which removes the skips but keeps the shape of every layer.

    Example:
        >>> resnet(3, 10, blocks=[1, 1, 1, 1], width=8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return ResNet(in_channels, num_classes, blocks, width, skip)


def named(name: str) -> dict[str, Any] | None:
    """Return the options of a named network; None for any other name.

    `resnet10`, `resnet18` and `resnet34` are the variants for small images (3x3 stem with stride 1,
    no max-pool), not the ImageNet variants. `resnetABCD` has A, B, C, D blocks in its stages, 1 to 9
    each.
    """
    digits = re.fullmatch(r"resnet([1-9]{4})", name)
    if digits:
        return {"blocks": [int(digit) for digit in digits[1]]}
    return {"blocks": list(_NAMED[name])} if name in _NAMED else None


NAME_FORMS = [*_NAMED, "resnetABCD with A, B, C, D from 1 to 9 (blocks per stage)"]
