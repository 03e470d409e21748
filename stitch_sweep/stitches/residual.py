"""Residual blocks as stitches: `basic_block`, `bottleneck`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.core.bounds import Width
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.base import Stitch
from stitch_sweep.stitches.normed import BatchNorm
from stitch_sweep.stitches.resizing import Pool, Up
from stitch_sweep.stitches.shapes import Shape, as_map, have_neighbors, shape_error
from stitch_sweep.stitches.size_matching import Match


class ResidualStitch(Stitch):
    """A block of a ResNet, after the receiver's size is matched: branch plus shortcut, then a ReLU.

    The shortcut is the identity if the numbers of channels are equal, otherwise a 1x1 convolution with
    batch normalization.

    Args:
        sender: shape of the input, (C, H, W) or (T, D).
        receiver: shape of the output, likewise.
        branch: maps C to C' channels; it ends with a batch normalization.
        match: matches the receiver's size.
        relu: whether the block ends with a ReLU.
    """

    def __init__(
        self, sender: Shape, receiver: Shape, branch: nn.Sequential, match: Match, relu: bool
    ) -> None:
        super().__init__(sender, receiver)
        self.match, self.branch, self.relu = match, branch, relu
        channels, out = as_map(sender)[0], as_map(receiver)[0]
        self.shortcut = nn.Sequential() if channels == out else _conv(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *sender] to [B, *receiver]."""
        x = self.match.arrange_input(x)
        y: Tensor = self.branch(x) + self.shortcut(x)
        return self.match.arrange_output(y.relu() if self.relu else y)

    def multiply_adds(self) -> int:
        """Count the weights of all convolutions, for every position of the receiver."""
        return self.match.positions * sum(weight.numel() for weight in self.sparse_tensors())

    def sparse_tensors(self) -> list[Tensor]:
        """Return the weights of all convolutions."""
        return [part.weight for part in self.modules() if isinstance(part, nn.Conv2d)]

    def explain_start_refusal(self, start: str) -> str | None:
        """Allow the identity for equal numbers of channels; refuse all closed forms."""
        if start == "identity":
            return None if not len(self.shortcut) else "its shortcut changes the number of channels"
        return super().explain_start_refusal(start)

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Set the branch's output to 0 (Goyal et al. 2017, arXiv 1706.02677); a ReLU is still applied."""
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
    r"""A residual block of two 3x3 convolutions with batch normalization.

    ```math
    S(x) = \operatorname{relu}(\mathrm{BN}\,W_2 * \operatorname{relu}(\mathrm{BN}\,W_1 * x) + \text{shortcut}(x))
    ```

    The stitch has the structure of a block of `resnet18`. Sizes are matched before the block. If C and
    C' differ, the shortcut is a 1x1 convolution with batch normalization.

    Use: to test whether a linear map of neighboring positions, such as `conv3x3`, is enough.

    Assumes: positions have neighbors.

    Invariant to: nothing exactly; the block can compute new features.

    Joins: maps and sequences, but no vectors. A receiver's sequence must have no class token.

    Parameters: 9 C' (C + C') + 4 C', and C C' + 2 C' more if C and C' differ.

    Multiply-adds: P times the number of convolution weights.

    Source: He et al. 2016, arXiv 1512.03385.

    Args:
        sender: shape of the input, (C, H, W) or (T, D).
        receiver: shape of the output, likewise.
        relu: whether to end with a ReLU, as the blocks of a network do. Set it to `false` for a
            receiver layer that isn't the output of a ReLU, such as the image.
        down: how an axis shrinks.
        up: how an axis grows.

    Raises:
        InputError: a shape is a vector, or the receiver has a class token: both have no neighbors.
    """  # noqa: E501
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
    r"""A residual block of 1x1, 3x3 and 1x1 convolutions, with fewer channels in the middle.

    ```math
    S(x) = \operatorname{relu}(\mathrm{BN}\,W_3 * \operatorname{relu}(\mathrm{BN}\,W_2 * \operatorname{relu}(\mathrm{BN}\,W_1 * x)) + \text{shortcut}(x))
    ```

    The stitch has the structure of a block of `resnet50`. Sizes are matched before the block. If C and
    C' differ, the shortcut is a 1x1 convolution with batch normalization.

    Use: to test whether a linear map of neighboring positions, such as `conv3x3`, is enough.

    Assumes: positions have neighbors.

    Invariant to: nothing exactly; the block can compute new features.

    Joins: maps and sequences, but no vectors. A receiver's sequence must have no class token.

    Parameters: w (C + 9 w + C') + 4 w + 2 C' with w = C' / `reduction`, and C C' + 2 C' more if C and
    C' differ.

    Multiply-adds: P times the number of convolution weights.

    Source: He et al. 2016, arXiv 1512.03385.

    Args:
        sender: shape of the input, (C, H, W) or (T, D).
        receiver: shape of the output, likewise.
        reduction: the block has C' / reduction channels in the middle, rounded down, at least 1.
        relu: as for `basic_block`.
        down: how an axis shrinks.
        up: how an axis grows.

    Raises:
        InputError: a shape is a vector, or the receiver has a class token: both have no neighbors.
    """  # noqa: E501
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
    if not have_neighbors(sender, receiver):
        needed = "two feature maps, or sequences, the receiver's without class token; use 'mlp' otherwise"
        raise shape_error(name, sender, receiver, needed)
    return Match.first(sender, receiver, down, up)


def _conv(channels: int, out: int, kernel: int) -> nn.Sequential:
    """Build a convolution that keeps the size, with batch normalization."""
    conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, BatchNorm(out))
