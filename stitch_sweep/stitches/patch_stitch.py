"""Affine maps of the patches of a feature map: the base of most stitches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.stitches.base import AffineStitch, ChannelMixer
from stitch_sweep.stitches.moments import RegressionMoments
from stitch_sweep.stitches.shapes import Shape, as_map
from stitch_sweep.stitches.size_matching import Match


class PatchStitch(AffineStitch):
    """One affine map W r + b of the patch r around every position, with sizes matched around it.

    A subclass defines which W and b are possible: it provides `matrix`, `offset` and `set_map`. A vector
    counts as a map of one position.

    Args:
        sender: shape of the input, (C, H, W), (T, D) or (D,).
        receiver: shape of the output, likewise.
        match: how sizes are matched.
    """

    def __init__(self, sender: Shape, receiver: Shape, match: Match) -> None:
        super().__init__(sender, receiver)
        self.match = match
        self.inputs = as_map(sender)[0] * match.window
        self.outputs = as_map(receiver)[0]
        self.positions = match.positions

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *sender] to [B, *receiver]."""
        return self.match.arrange_output(self._map(self.match.arrange_input(x)))

    def rows(self, x: Tensor) -> Tensor:
        """Return the patch of each position, [B H'' W'', C kh kw]."""
        patches = self.match.patches(x)
        # Rows can be interpolated instead of outputs, because the weights of a position sum to 1.
        return _by_position(patches if self._copies else self.match.after(patches))

    def copies(self) -> Tensor | None:
        """Return the number of copies of each position, [H'' W''], if sizes grow by nearest neighbors."""
        return self.match.after.copies() if self._copies else None

    def target_rows(self, y: Tensor) -> Tensor:
        """Return the targets of all rows, [B H'' W'', C'], summed over the copies of a position."""
        y = self.match.arrange_target(y)
        return _by_position(self.match.after.sums(y) if self._copies else y)

    def target_values(self, y: Tensor) -> Tensor:
        """Return the targets of all output positions, [B H' W', C']."""
        return _by_position(self.match.arrange_target(y))

    def multiply_adds(self) -> int:
        """Count C D for every position of the convolution, which may have fewer positions than rows."""
        return self.match.positions * self.outputs * self.inputs

    def explain_start_refusal(self, start: str) -> str | None:
        """Refuse an identity with a kernel of several positions too."""
        if start == "identity" and self.match.window > 1:
            kernel = "x".join(map(str, self.match.kernel))
            return f"its kernel is {kernel}, and copying needs 1x1"
        return super().explain_start_refusal(start)

    @property
    def _copies(self) -> bool:
        after = self.match.after
        return after.rule == "nearest" and after.size != after.target

    def _map(self, x: Tensor) -> Tensor:
        return self.match.convolve(x, self.matrix(), self.offset())


class ConvStitch(PatchStitch, ChannelMixer):
    """An unrestricted convolution with bias; its parameters are `conv.weight` and `conv.bias`.

    The random start is torch's initialization of `Conv2d`.
    """

    def __init__(self, sender: Shape, receiver: Shape, match: Match) -> None:
        super().__init__(sender, receiver, match)
        channels = as_map(sender)[0]
        self.conv = nn.Conv2d(channels, self.outputs, match.kernel, match.stride, match.padding)
        self.row_shape = (1, channels, match.window)
        self.keeps_zeros = match.padding > 0

    def channel_values(self, x: Tensor) -> Tensor:
        """Return the channels at every position of the convolution's input, [n, C]."""
        return _by_position(self.match.arrange_input(x))

    def apply_map(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Apply the convolution with other weights, W [C', C kh kw] and b [C']."""
        return self.match.arrange_output(
            self.match.convolve(self.match.arrange_input(x), weight, bias)
        )

    def matrix(self) -> Tensor:
        """Return W, [C', C kh kw]."""
        return self.conv.weight.flatten(1)

    def offset(self) -> Tensor:
        """Return b, [C']."""
        assert self.conv.bias is not None
        return self.conv.bias

    @torch.no_grad()
    def set_map(
        self, weight: Tensor, bias: Tensor, moments: RegressionMoments | None = None
    ) -> None:
        """Set W and b, which may be any."""
        self.conv.weight.copy_(weight.reshape(self.conv.weight.shape))
        self.offset().copy_(bias)


def _by_position(x: Tensor) -> Tensor:
    """Reshape [B, C, H, W] to [B H W, C], stored by channel so that sums over positions are fast."""
    return x.transpose(0, 1).flatten(1).T
