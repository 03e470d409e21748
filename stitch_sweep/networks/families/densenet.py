"""DenseNets for small images, with all skips, fewer skips or none."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from stitch_sweep.core.bounds import Blocks, Width
from stitch_sweep.core.registry import FAMILIES
from stitch_sweep.networks.families.parts import check_halvings, initialize_weights

Skips = Literal["dense", "last", "none"]

_NAMED = {
    "densenet100": [16, 16, 16],
    "densenet121": [6, 12, 24, 16],
    "densenet169": [6, 12, 32, 32],
    "densenet201": [6, 12, 48, 32],
}


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution into 4 k channels; the same with 3x3 (Huang et al. 2017).

        skips: dense    S(x) = [x, H(x)]
        skips: last     S(x) = [x, H(the last k channels of x)]
        skips: none     S(x) = H(x), with as many channels as in the other cases

    x is the concatenation of all outputs of the block so far, so the next layer needs no other input.

    Args:
        in_channels: channels of x.
        growth: k, the growth rate.
        skips: `dense`, `last` or `none`.
        first: whether x is the block's input, which `last` reads completely.
    """

    def __init__(self, in_channels: int, growth: int, skips: Skips, first: bool) -> None:
        super().__init__()
        self.keeps = skips != "none"
        self.reads_last = growth if skips == "last" and not first else None
        read_channels = self.reads_last or in_channels
        new_channels = growth if self.keeps else in_channels + growth
        self.norm1 = nn.BatchNorm2d(read_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(read_channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth, new_channels, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, in_channels, H, W]` to `[B, in_channels + growth, H, W]`."""
        y = x if self.reads_last is None else x[:, -self.reads_last :]
        y = self.conv1(self.relu1(self.norm1(y)))
        y = self.conv2(self.relu2(self.norm2(y)))
        return torch.cat([x, y], 1) if self.keeps else y


class DenseNet(nn.Module):
    """3x3 stem with stride 1, dense blocks with transitions between, average pool, linear head.

    DenseNet-BC of Huang et al. 2017 (arXiv 1608.06993): the stem has 2 k channels, every dense layer adds
    k, and a transition (BatchNorm, ReLU, 1x1 convolution, 2x2 average pool) halves channels and sides,
    rounding down. Initial weights: He et al.'s (2015) with variance 2 / fan_out, BatchNorm at 1 and 0,
    the head at torch's default, drawn from torch's global generator.

    A dense layer returns one tensor, the concatenation of all outputs of its block so far, instead of a
    list of tensors. The network computes the same, but it can be cut after every layer, because this
    tensor contains all earlier outputs that later layers read.

    Args:
        in_channels: channels of the image.
        num_classes: length of the logits.
        blocks: dense layers of each block.
        width: k, the growth rate.
        skips: `dense`; `last`, from every layer's output to the end of its block only; or `none`.

    Attributes:
        layer_names: the layers of stitching: the stem, then every dense layer.
    """

    def __init__(
        self, in_channels: int, num_classes: int, blocks: list[int], width: int, skips: Skips
    ) -> None:
        super().__init__()
        channels = 2 * width
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.layer_names = ["stem"]
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for number, layers in enumerate(blocks, start=1):
            if number > 1:
                parts[f"transition{number - 1}"] = _transition(channels)
                channels //= 2
            block: OrderedDict[str, nn.Module] = OrderedDict()
            for layer in range(1, layers + 1):
                block[f"layer{layer}"] = DenseLayer(channels, width, skips, first=layer == 1)
                channels += width
                self.layer_names.append(f"features.block{number}.layer{layer}")
            parts[f"block{number}"] = nn.Sequential(block)
        self.features = nn.Sequential(parts)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialize_weights(self, "fan_out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images `[B, in_channels, H, W]` to logits `[B, num_classes]`."""
        x = self.relu(self.norm(self.features(self.stem(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(),
            conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )


@FAMILIES.register("densenet")
def densenet(
    in_channels: int,
    num_classes: int,
    image_size: int = 32,
    *,
    blocks: Annotated[list[Blocks], Field(min_length=1, max_length=5)],
    width: Width = 32,
    skips: Skips = "dense",
) -> DenseNet:
    """DenseNet-BC for small images: a 3x3 stem, pre-activation bottlenecks, and transitions that halve
    channels and side.

    The output of a dense layer is the concatenation of all outputs so far in its block. This tensor
    carries all information, so there is a cut point after each dense layer. A stitch into a dense layer
    has to produce all channels of this tensor, also those of earlier layers. There is no cut point
    inside a dense layer, except with `skips: none`, which makes the network sequential.

    Layers: the stem, and every dense layer. The stem has 2 w channels, and each layer adds w. Block k
    (from 0) has side s / 2^k.

    Short names: `densenet121`, `densenet169` and `densenet201` for blocks [6, 12, 24, 16], [6, 12, 32,
    32] and [6, 12, 48, 32]; `densenet100` for blocks [16, 16, 16] (with `width: 12`, the network of the
    paper).

    Limits: one to five blocks. The image must be large enough: its side is halved between blocks.

    Source: Huang et al. 2017, arXiv 1608.06993.

    Args:
        in_channels: channels of the image.
        num_classes: length of the logits.
        image_size: pixels on a side.
        blocks: number of dense layers in each dense block.
        width: the growth rate k: the number of channels that every dense layer adds.
        skips: the inputs of a dense layer. `dense`: all earlier outputs of its block. `last`: only the
            previous layer's output; the end of the block reads all outputs. `none`: there are no skips.
            Every layer has the same shape in all three cases; with `none`, a layer computes all of its
            channels, which needs more parameters.

    Raises:
        InputError: the image is too small for this number of blocks.

    Example:
        >>> densenet(3, 10, blocks=[2, 2, 2], width=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    check_halvings("densenet", image_size, len(blocks) - 1)
    return DenseNet(in_channels, num_classes, blocks, width, skips)


def named(name: str) -> dict[str, Any] | None:
    """Return the options of a named network; None for any other name.

    `densenet121`, `densenet169` and `densenet201` have the blocks of Huang et al.'s networks for
    ImageNet. `densenet100` has the blocks of their DenseNet-BC (L = 100) for CIFAR, whose growth rate is
    12.
    """
    return {"blocks": list(_NAMED[name])} if name in _NAMED else None


NAME_FORMS = [*_NAMED]
