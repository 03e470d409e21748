"""A small multi-layer perceptron at every position."""

from __future__ import annotations

from torch import Tensor, nn

from stitch_sweep.core.bounds import Width
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.base import Stitch
from stitch_sweep.stitches.resizing import Up
from stitch_sweep.stitches.shapes import Shape, as_map
from stitch_sweep.stitches.size_matching import Down, Match


@STITCHES.register("mlp")
class MlpStitch(Stitch):
    r"""A perceptron with one hidden layer and a ReLU, applied at every position.

    ```math
    S(x)_p = W_2 \operatorname{relu}(W_1 r_p + b_1) + b_2
    ```

    Use: to test whether a linear map of each position, such as `conv1x1`, is enough.

    Assumes: positions correspond.

    Invariant to: invertible affine maps of the channels.

    Joins: maps, sequences and vectors of any sizes.

    Parameters: h (D + 1) + C' (h + 1), where h is the width of the hidden layer.

    Multiply-adds: P h (D + C').

    Args:
        sender: shape of the input, (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: shape of the output, likewise, C' channels.
        hidden: width of the hidden layer; by default C'.
        down: how an axis shrinks; with `strided`, the kernel of W1 grows as for `conv1x1`.
        up: how an axis grows.
    """

    def __init__(
        self,
        sender: Shape,
        receiver: Shape,
        *,
        hidden: Width | None = None,
        down: Down = "average",
        up: Up = "nearest",
    ) -> None:
        super().__init__(sender, receiver)
        self.match = Match.around(sender, receiver, down, up)
        channels, out = as_map(sender)[0], as_map(receiver)[0]
        width = hidden or out
        self.first = nn.Conv2d(channels, width, self.match.kernel, self.match.stride)
        self.second = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *sender] to [B, *receiver]."""
        return self.match.arrange_output(
            self.second(self.first(self.match.arrange_input(x)).relu())
        )

    def multiply_adds(self) -> int:
        """Count both weights, for every position."""
        return self.match.positions * sum(weight.numel() for weight in self.sparse_tensors())

    def sparse_tensors(self) -> list[Tensor]:
        """Return both weights."""
        return [self.first.weight, self.second.weight]
