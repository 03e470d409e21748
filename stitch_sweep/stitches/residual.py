"""Residual blocks as stitches: `basic_block`, `bottleneck`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.core.bounds import Width
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.base import Stitch
from stitch_sweep.stitches.normed import BatchNorm
from stitch_sweep.stitches.shapes import Shape, as_map, have_neighbours, unfit
from stitch_sweep.stitches.spatial import Match, Pool, Up


class ResidualStitch(Stitch):
    """The receiver's size first, then branch plus shortcut, then a ReLU: a block of a ResNet.

    The shortcut is the map itself where channels are equal, else a 1x1 convolution with batch
    normalisation.

    Args:
        sender: (C, H, W) or (T, D).
        receiver: likewise.
        branch: from C to C' channels, ending in a batch normalisation.
        match: gives the receiver's size.
        relu: whether a ReLU ends it.
    """

    def __init__(
        self, sender: Shape, receiver: Shape, branch: nn.Sequential, match: Match, relu: bool
    ) -> None:
        super().__init__(sender, receiver)
        self.match, self.branch, self.relu = match, branch, relu
        channels, out = as_map(sender)[0], as_map(receiver)[0]
        self.shortcut = nn.Sequential() if channels == out else _conv(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, *sender] -> [B, *receiver]."""
        x = self.match.enter(x)
        y: Tensor = self.branch(x) + self.shortcut(x)
        return self.match.leave(y.relu() if self.relu else y)

    def multiply_adds(self) -> int:
        """Weights of all convolutions, for every position of the receiver."""
        return self.match.positions * sum(weight.numel() for weight in self.sparse_tensors())

    def sparse_tensors(self) -> list[Tensor]:
        """The weights of all convolutions."""
        return [part.weight for part in self.modules() if isinstance(part, nn.Conv2d)]

    def why_not(self, start: str) -> str | None:
        """The identity is there where channels are equal."""
        if start == "identity":
            return None if not len(self.shortcut) else "its shortcut changes the number of channels"
        return super().why_not(start)

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """The branch gives 0 (Goyal et al. 2017, arXiv 1706.02677); with a ReLU, copies what is >= 0."""
        last = [part for part in self.branch.modules() if isinstance(part, BatchNorm)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


@STITCHES.register("basic_block")
def basic_block(
    sender: Shape,
    receiver: Shape,
    *,
    relu: bool = True,
    down: Pool = "average",
    up: Up = "nearest",
) -> ResidualStitch:
    """A residual block of two 3x3 convolutions with batch normalisation (He et al. 2016).

    arXiv 1512.03385; what `resnet18`'s own blocks are, except that sizes are matched before it.

    Args:
        sender: (C, H, W) or (T, D).
        receiver: likewise.
        relu: end in a ReLU, as a network's own blocks do; without it for a layer that isn't after a
            ReLU, such as the image.
        down: how an axis shrinks.
        up: how an axis grows.

    Raises:
        InputError: a vector, or a receiver's class token, which has no neighbours.
    """
    match = _match("basic_block", sender, receiver, down, up)
    inner, outer = as_map(sender)[0], as_map(receiver)[0]
    branch = nn.Sequential(_conv(inner, outer, 3), nn.ReLU(), _conv(outer, outer, 3))
    return ResidualStitch(sender, receiver, branch, match, relu)


@STITCHES.register("bottleneck")
def bottleneck(
    sender: Shape,
    receiver: Shape,
    *,
    reduction: Width = 4,
    relu: bool = True,
    down: Pool = "average",
    up: Up = "nearest",
) -> ResidualStitch:
    """A residual block of 1x1, 3x3 and 1x1 convolutions, narrow in the middle (He et al. 2016).

    arXiv 1512.03385; what `resnet50`'s blocks are, except that sizes are matched before it.

    Args:
        sender: (C, H, W) or (T, D).
        receiver: likewise.
        reduction: the middle has C' / reduction channels, rounded down, but one at least.
        relu: as for `basic_block`.
        down: how an axis shrinks.
        up: how an axis grows.

    Raises:
        InputError: a vector, or a receiver's class token, which has no neighbours.
    """
    match = _match("bottleneck", sender, receiver, down, up)
    channels, out = as_map(sender)[0], as_map(receiver)[0]
    middle = max(1, out // reduction)
    branch = nn.Sequential(
        _conv(channels, middle, 1),
        nn.ReLU(),
        _conv(middle, middle, 3),
        nn.ReLU(),
        _conv(middle, out, 1),
    )
    return ResidualStitch(sender, receiver, branch, match, relu)


def _match(name: str, sender: Shape, receiver: Shape, down: Pool, up: Up) -> Match:
    if not have_neighbours(sender, receiver):
        wanted = "two feature maps, or sequences, the receiver's without class token (else: 'mlp')"
        raise unfit(name, sender, receiver, wanted)
    return Match.first(sender, receiver, down, up)


def _conv(channels: int, out: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps the size, and a batch normalisation."""
    conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, BatchNorm(out))
