"""Affine maps of patches of a feature map: what most stitches are built on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.stitches.base import AffineStitch
from stitch_sweep.stitches.moments import Moments
from stitch_sweep.stitches.shapes import Shape, as_map
from stitch_sweep.stitches.spatial import Match


class PatchStitch(AffineStitch):
    """One affine map W r + b of the patch r around every position, sizes matched around it.

    What it may look like is up to the subclass: it gives `matrix`, `offset` and `set_map`. A vector
    counts as a map of one position.

    Args:
        sender: (C, H, W), (T, D) or (D,).
        receiver: likewise.
        match: how sizes are matched.
    """

    def __init__(self, sender: Shape, receiver: Shape, match: Match) -> None:
        super().__init__(sender, receiver)
        self.match = match
        self.inputs = as_map(sender)[0] * match.window
        self.outputs = as_map(receiver)[0]
        self.positions = match.positions

    def forward(self, x: Tensor) -> Tensor:
        """[B, *sender] -> [B, *receiver]."""
        return self.match.leave(self._map(self.match.enter(x)))

    def rows(self, x: Tensor) -> Tensor:
        """The patch that each position sees, [B H'' W'', C kh kw]."""
        patches = self.match.patches(x)
        # Interpolating outputs is interpolating rows, for the weights of a position add up to 1.
        return _by_position(patches if self._copies else self.match.after(patches))

    def copies(self) -> Tensor | None:
        """Where sizes grow by nearest neighbours: how often each position is copied, [H'' W'']."""
        return self.match.after.copies() if self._copies else None

    def target_rows(self, y: Tensor) -> Tensor:
        """[B H'' W'', C']; sums over the copies of a position."""
        y = self.match.laid_out(y)
        return _by_position(self.match.after.sums(y) if self._copies else y)

    def target_values(self, y: Tensor) -> Tensor:
        """[B H' W', C']."""
        return _by_position(self.match.laid_out(y))

    def multiply_adds(self) -> int:
        """C D for every position of the convolution, which may be fewer than there are rows."""
        return self.match.positions * self.outputs * self.inputs

    def why_not(self, start: str) -> str | None:
        """Besides, an identity of channels needs kernels of one position."""
        if start == "identity" and self.match.window > 1:
            kernel = "x".join(map(str, self.match.kernel))
            return f"its kernel is {kernel}, and copying needs 1x1"
        return super().why_not(start)

    @property
    def _copies(self) -> bool:
        after = self.match.after
        return after.rule == "nearest" and after.size != after.target

    def _map(self, x: Tensor) -> Tensor:
        return self.match.convolve(x, self.matrix(), self.offset())


class ConvStitch(PatchStitch):
    """An unrestricted convolution with bias; parameters `conv.weight` and `conv.bias`.

    Starts, when random, as torch's `Conv2d` does.
    """

    def __init__(self, sender: Shape, receiver: Shape, match: Match) -> None:
        super().__init__(sender, receiver, match)
        self.conv = nn.Conv2d(
            as_map(sender)[0], self.outputs, match.kernel, match.stride, match.padding
        )

    def matrix(self) -> Tensor:
        """[C', C kh kw]."""
        return self.conv.weight.flatten(1)

    def offset(self) -> Tensor:
        """[C']."""
        assert self.conv.bias is not None
        return self.conv.bias

    @torch.no_grad()
    def set_map(self, weight: Tensor, bias: Tensor, moments: Moments | None = None) -> None:
        """Any W and b."""
        self.conv.weight.copy_(weight.reshape(self.conv.weight.shape))
        self.offset().copy_(bias)


def _by_position(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B H W, C]; stored channel by channel, which makes sums over positions fast."""
    return x.transpose(0, 1).flatten(1).T
