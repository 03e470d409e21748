"""How the sizes of two feature maps are matched: fixed maps, deterministic on every device.

torch's own adaptive pooling and interpolation have no deterministic gradient on a GPU. Here every
rule but the maximum is a small matrix per axis, exact in float64, and applied by matmul.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.stitches.shapes import Shape, as_map

Size = tuple[int, int]
Pool = Literal["average", "max"]
Down = Literal["strided", "average", "max"]
Up = Literal["nearest", "bilinear"]


class Resize(nn.Module):
    """Change height and width by a fixed rule, each axis for itself.

    For an axis of n values that becomes m:

    - `average`, `max` (m <= n): of the values floor(i n/m) to ceil((i+1) n/m) - 1, for i = 0 .. m-1,
      which is torch's adaptive pooling, and plain pooling where m divides n;
    - `nearest` (m >= n): the value floor(i n/m);
    - `bilinear` (m >= n): between the two values around (i + 1/2) n/m - 1/2, the border repeated,
      which is torch's `interpolate` with `align_corners=False`.

    Args:
        size: (H, W).
        target: (H', W').
        rule: one of the above; an axis that stays as it is isn't touched.
    """

    h: Tensor | None
    w: Tensor | None

    def __init__(self, size: Size, target: Size, rule: Pool | Up) -> None:
        super().__init__()
        self.size, self.target, self.rule = size, target, rule
        for name, n, m in zip("hw", size, target, strict=True):
            tensor = None if n == m else torch.from_numpy(_TABLES[rule](n, m))
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H', W']."""
        (h, w), (h2, w2) = self.size, self.target
        if self.size == self.target:
            return x
        if self.rule == "average" and h % h2 == 0 and w % w2 == 0:
            return functional.avg_pool2d(x, (h // h2, w // w2))
        if self.rule == "nearest" and h2 % h == 0 and w2 % w == 0:
            return _repeat(x, h2 // h, w2 // w)
        if self.rule == "max":
            x = x if self.h is None else x[:, :, self.h].amax(dim=3)
            return x if self.w is None else x[:, :, :, self.w].amax(dim=4)
        x = x if self.h is None else self.h.to(x.dtype) @ x
        return x if self.w is None else x @ self.w.to(x.dtype).T

    def sums(self, y: Tensor) -> Tensor:
        """The transposed map: sums over what each value became, [B, C, H', W'] -> [B, C, H, W]."""
        y = y if self.h is None else self.h.T.to(y.dtype) @ y
        return y if self.w is None else y @ self.w.to(y.dtype)

    def copies(self) -> Tensor:
        """The weight of each value in the output, float64 [H W]; for `nearest` its copies."""
        h, w = (
            torch.ones(n, dtype=torch.float64) if table is None else table.double().sum(dim=0).cpu()
            for n, table in zip(self.size, (self.h, self.w), strict=True)
        )
        return torch.outer(h, w).flatten()


class Match(nn.Module):
    """The sizes of sender and receiver, matched around or before a convolution.

    A vector counts as a map of one position.

    Attributes:
        before: the fixed map before the convolution.
        after: the fixed map after it.
        kernel: (kh, kw) of the convolution.
        stride: likewise.
        padding: zeros on every side.
        inner: (H'', W'') of what the convolution gives.
    """

    def __init__(
        self, sender: Shape, receiver: Shape, before: nn.Module, after: Resize, kernel: Size,
        stride: Size, padding: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sender, self.receiver = sender, receiver
        self.before, self.after = before, after
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.inner = after.size

    @classmethod
    def around(cls, sender: Shape, receiver: Shape, down: Down, up: Up) -> Match:
        """An axis that shrinks is pooled first or strided over; one that grows grows last.

        Each position mixes channels only, so growing first would give the same and cost more. The
        strided convolution from n to m values has stride s = floor(n/m) and kernel n - s (m - 1), the
        smallest stride-s window that leaves no value out: k and k where n = k m, 1 and 4 for 7 to 4.
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
        """The receiver's size first, then a convolution with stride 1 that keeps it.

        Args:
            sender: (C, H, W).
            receiver: (C', H', W').
            down: for an axis that shrinks.
            up: for an axis that grows.
            kernel: odd.
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
        """Positions at which the convolution is applied."""
        return math.prod(self.inner)

    @property
    def window(self) -> int:
        """Positions that each of them looks at."""
        return math.prod(self.kernel)

    def enter(self, x: Tensor) -> Tensor:
        """[B, *sender] to the map that the convolution gets."""
        c, h, w = as_map(self.sender)
        matched: Tensor = self.before(x.reshape(len(x), c, h, w))
        return matched

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution; weight [C', C kh kw]."""
        weight = weight.reshape(len(weight), -1, *self.kernel)
        return functional.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)

    def leave(self, y: Tensor) -> Tensor:
        """From what the convolution gives to [B, *receiver]."""
        y = self.after(y)
        return y.reshape(len(y), *self.receiver)

    def patches(self, x: Tensor) -> Tensor:
        """What each position of the convolution sees, [B, C kh kw, H'', W''], for [B, *sender]."""
        x = self.enter(x)
        if self.padding:
            x = functional.pad(x, [self.padding] * 4)
        (kh, kw), (sh, sw) = self.kernel, self.stride
        windows = x.unfold(2, kh, sh).unfold(3, kw, sw)  # [B, C, H'', W'', kh, kw]
        return windows.permute(0, 1, 4, 5, 2, 3).flatten(1, 3)


def _pair(sizes: list[int]) -> Size:
    first, second = sizes
    return first, second


def _repeat(y: Tensor, rows: int, columns: int) -> Tensor:
    """Nearest-neighbour upsampling by whole numbers."""
    b, c, h, w = y.shape
    spread = y[:, :, :, None, :, None].expand(b, c, h, rows, w, columns)
    return spread.reshape(b, c, h * rows, w * columns)


def _windows(n: int, m: int) -> list[range]:
    return [range(i * n // m, -((i + 1) * -n // m)) for i in range(m)]


def _average(n: int, m: int) -> NDArray[np.float64]:
    table = np.zeros((m, n))
    for i, window in enumerate(_windows(n, m)):
        table[i, window] = 1 / len(window)
    return table


def _max(n: int, m: int) -> NDArray[np.int64]:
    """The values of each window, [m, L], the last one repeated where a window is shorter."""
    windows = _windows(n, m)
    longest = max(map(len, windows))
    return np.array([[min(w.start + k, w.stop - 1) for k in range(longest)] for w in windows])


def _nearest(n: int, m: int) -> NDArray[np.float64]:
    table = np.zeros((m, n))
    table[np.arange(m), np.arange(m) * n // m] = 1
    return table


def _bilinear(n: int, m: int) -> NDArray[np.float64]:
    at = np.maximum((np.arange(m) + 0.5) * n / m - 0.5, 0)
    low = at.astype(int)
    table = np.zeros((m, n))
    # Added up, because at the border both are the same value.
    np.add.at(table, (np.arange(m), low), 1 - (at - low))
    np.add.at(table, (np.arange(m), np.minimum(low + 1, n - 1)), at - low)
    return table


_TABLES = {"average": _average, "max": _max, "nearest": _nearest, "bilinear": _bilinear}
