"""How the sizes of two feature maps are matched: fixed maps, deterministic on every device.

torch's own adaptive pooling and interpolation have no deterministic gradient on a GPU. Here every
rule but the maximum is a small matrix per axis, exact in float64, and applied by matmul.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.stitches.shapes import Shape, as_map, has_class_token

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


class BesideClassToken(nn.Module):
    """A `Resize` of the patches of a sequence; the class token before them stays as it is.

    Positions lie in one row, the class token first: it stands for a `Resize` of maps (1, 1 + H W).

    Args:
        patches: of the map of patches.
    """

    def __init__(self, patches: Resize) -> None:
        super().__init__()
        self.patches, self.rule = patches, patches.rule
        self.size: Size = (1, 1 + math.prod(patches.size))
        self.target: Size = (1, 1 + math.prod(patches.target))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 1, 1 + H W] -> [B, C, 1, 1 + H' W']."""
        return self._patchwise(x, self.patches.size, self.patches)

    def sums(self, y: Tensor) -> Tensor:
        """As `Resize.sums`, [B, C, 1, 1 + H' W'] -> [B, C, 1, 1 + H W]."""
        return self._patchwise(y, self.patches.target, self.patches.sums)

    def copies(self) -> Tensor:
        """As `Resize.copies`, [1 + H W]."""
        return functional.pad(self.patches.copies(), (1, 0), value=1.0)

    def _patchwise(self, x: Tensor, size: Size, change: Callable[[Tensor], Tensor]) -> Tensor:
        patches = change(x[..., 1:].unflatten(3, size).squeeze(2))
        return torch.cat([x[..., :1], patches.flatten(2).unsqueeze(2)], dim=3)


class Match(nn.Module):
    """The sizes of sender and receiver, matched around or before a convolution.

    A vector counts as a map of one position, a sequence as the map of its patches (`as_map`). A class
    token of the sender goes to the receiver's class token; if that has none, it is added to every patch
    (as in Ranftl et al. 2021, arXiv 2103.13413). A class token that only the receiver has gets the mean
    of what the convolution's other positions get.

    Where the receiver has a class token, the convolution gets the windows of all its positions side by
    side, the class token's first; that one holds the class token at each of its places.

    Attributes:
        before: the fixed map of the sender's map, before the convolution.
        after: the fixed map after it.
        window_stride: from one position's window of the map to the next one's.
        kernel: (kh, kw) of the convolution.
        stride: of the convolution.
        padding: zeros on every side.
        inner: (H'', W'') of what the convolution gives.
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
        # [B, C, 1 + H'' W'', kh, kw], laid out in a row of windows
        return torch.cat([first, windows], dim=2).transpose(2, 3).flatten(3)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution; weight [C', C kh kw]."""
        weight = weight.reshape(len(weight), -1, *self.kernel)
        return functional.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)

    def leave(self, y: Tensor) -> Tensor:
        """From what the convolution gives to [B, *receiver]."""
        y = self.after(y)
        if len(self.receiver) == 2:
            return y.flatten(2).transpose(1, 2).contiguous()
        return y.reshape(len(y), *self.receiver)

    def laid_out(self, y: Tensor) -> Tensor:
        """[B, *receiver] with its positions where `after` has them: what `leave` undoes at the end."""
        if len(self.receiver) == 2:
            return y.transpose(1, 2).unflatten(2, self.after.target)
        return y.reshape(len(y), *as_map(self.receiver))

    def patches(self, x: Tensor) -> Tensor:
        """What each position of the convolution sees, [B, C kh kw, H'', W''], for [B, *sender]."""
        x = self.enter(x)
        if self.padding:
            x = functional.pad(x, [self.padding] * 4)
        windows = _windows_of(x, self.kernel, self.stride)
        return windows.permute(0, 1, 4, 5, 2, 3).flatten(1, 3)


def _pair(sizes: list[int]) -> Size:
    first, second = sizes
    return first, second


def _windows_of(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """[B, C, H, W] -> [B, C, H'', W'', kh, kw]."""
    (kh, kw), (sh, sw) = kernel, stride
    return x.unfold(2, kh, sh).unfold(3, kw, sw)


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
