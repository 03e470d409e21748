"""Match the sizes of a sender's and a receiver's feature maps around a convolution."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import PlainSerializer, WrapValidator
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.core.registry import SHRINKING_RULES, accept_registered
from stitch_sweep.stitches.resizing import BesideClassToken, Pool, Resize, Size, Up
from stitch_sweep.stitches.shapes import Shape, as_map, has_class_token

Down = Annotated[
    Literal["strided", "average", "max"],
    WrapValidator(partial(accept_registered, SHRINKING_RULES)),
    PlainSerializer(str),
]
"""Rules for an axis that shrinks: a strided convolution, or a pooling before the convolution."""


class Match(nn.Module):
    """Fixed maps that match the sizes of sender and receiver, around or before a convolution.

    A vector counts as a map of one position, a sequence as the map of its patches (`as_map`). The
    docstring of `shapes.py` describes class tokens.

    If the receiver has a class token, the convolution's input is the windows of all positions side by
    side, beginning with the class token's window, which contains the class token at each of its
    positions.

    Attributes:
        before: the fixed map before the convolution.
        after: the fixed map after the convolution.
        window_stride: step between the windows of two neighboring positions.
        kernel: (kh, kw) of the convolution.
        stride: stride of the convolution.
        padding: number of zeros on every side.
        inner: (H'', W'') of the convolution's output.
    """

    def __init__(
        self, sender: Shape, receiver: Shape, before: nn.Module, after: Resize, kernel: Size,
        stride: Size, padding: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sender, self.receiver = sender, receiver
        side_by_side = has_class_token(receiver)
        self.before = before
        self.after: Resize | BesideClassToken = BesideClassToken(after) if side_by_side else after
        self.kernel, self.padding, self.window_stride = kernel, padding, stride
        self.stride = kernel if side_by_side else stride
        self.inner = self.after.size

    @classmethod
    def around(cls, sender: Shape, receiver: Shape, down: Down, up: Up) -> Match:
        """Shrink an axis before or in the convolution; grow an axis after it.

        The convolution mixes channels only, so growing first would give the same output and cost more. A
        strided convolution from n to m values has stride s = floor(n/m) and kernel n - s (m - 1), the
        smallest windows with this stride that cover all values: for n = k m, stride and kernel are k; for
        7 to 4, they are 1 and 4.

        Args:
            sender: shape of the input, (C, H, W), (T, D) or (D,).
            receiver: shape of the output, likewise.
            down: rule for an axis that shrinks.
            up: rule for an axis that grows.
        """
        _, *size = as_map(sender)
        _, *target = as_map(receiver)
        inner = list(map(min, size, target))
        kernel, stride = [1, 1], [1, 1]
        before: nn.Module = nn.Identity()
        if down == "strided":
            stride = [n // m for n, m in zip(size, inner, strict=True)]
            kernel = [n - s * (m - 1) for n, m, s in zip(size, inner, stride, strict=True)]
        else:
            before = Resize(_pair(size), _pair(inner), down)
        after = Resize(_pair(inner), _pair(target), up)
        return cls(sender, receiver, before, after, _pair(kernel), _pair(stride), padding=0)

    @classmethod
    def first(cls, sender: Shape, receiver: Shape, down: Pool, up: Up, kernel: int = 3) -> Match:
        """Match the receiver's size before a convolution with stride 1, which keeps the size.

        Args:
            sender: shape of the input, (C, H, W) or (T, D).
            receiver: shape of the output, (C', H', W') or (T', D').
            down: rule for an axis that shrinks.
            up: rule for an axis that grows.
            kernel: size of the convolution's kernel, odd.
        """
        _, *size = as_map(sender)
        _, *target = as_map(receiver)
        inner = list(map(min, size, target))
        before = nn.Sequential(
            Resize(_pair(size), _pair(inner), down), Resize(_pair(inner), _pair(target), up)
        )
        after = Resize(_pair(target), _pair(target), up)
        sides = (kernel, kernel)
        return cls(sender, receiver, before, after, sides, (1, 1), padding=kernel // 2)

    @property
    def positions(self) -> int:
        """Number of positions at which the convolution is applied."""
        return math.prod(self.inner)

    @property
    def window(self) -> int:
        """Number of positions in the convolution's window."""
        return math.prod(self.kernel)

    def arrange_input(self, x: Tensor) -> Tensor:
        """Arrange [B, *sender] as the input of the convolution."""
        class_token = None
        if len(self.sender) == 2:
            x = x.transpose(1, 2)
            if has_class_token(self.sender):
                class_token, x = x[:, :, 0], x[:, :, 1:]
        x = x.reshape(len(x), *as_map(self.sender))
        if not has_class_token(self.receiver):
            x = x if class_token is None else x + class_token[:, :, None, None]
            matched: Tensor = self.before(x)
            return matched
        windows = _windows_of(self.before(x), self.kernel, self.window_stride).flatten(2, 3)
        if class_token is None:
            first = windows.mean(dim=2, keepdim=True)
        else:
            first = class_token[:, :, None, None, None].expand(-1, -1, 1, *self.kernel)
        # [B, C, 1 + H'' W'', kh, kw], arranged as a row of windows
        return torch.cat([first, windows], dim=2).transpose(2, 3).flatten(3)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the convolution; weight [C', C kh kw]."""
        weight = weight.reshape(len(weight), -1, *self.kernel)
        return functional.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)

    def arrange_output(self, y: Tensor) -> Tensor:
        """Arrange the output of the convolution as [B, *receiver]."""
        y = self.after(y)
        if len(self.receiver) == 2:
            return y.flatten(2).transpose(1, 2).contiguous()
        return y.reshape(len(y), *self.receiver)

    def arrange_target(self, y: Tensor) -> Tensor:
        """Arrange [B, *receiver] as the output of `after`; inverts the end of `arrange_output`."""
        if len(self.receiver) == 2:
            return y.transpose(1, 2).unflatten(2, self.after.target)
        return y.reshape(len(y), *as_map(self.receiver))

    def patches(self, x: Tensor) -> Tensor:
        """Return the window of each position, [B, C kh kw, H'', W''], for [B, *sender]."""
        x = self.arrange_input(x)
        if self.padding:
            x = functional.pad(x, [self.padding] * 4)
        windows = _windows_of(x, self.kernel, self.stride)
        return windows.permute(0, 1, 4, 5, 2, 3).flatten(1, 3)


def _pair(sizes: list[int]) -> Size:
    first, second = sizes
    return first, second


def _windows_of(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Cut windows from [B, C, H, W], [B, C, H'', W'', kh, kw]."""
    (kh, kw), (sh, sw) = kernel, stride
    return x.unfold(2, kh, sh).unfold(3, kw, sw)
