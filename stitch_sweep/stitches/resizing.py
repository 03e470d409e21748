"""The options `down` and `up` set how the sizes of two maps are matched. Each axis is matched
separately: one may shrink while the other grows.

| option | from n values to m | same as |
|---|---|---|
| `down: average` | output i is the mean of the values floor(i n/m) to ceil((i+1) n/m) - 1 | torch's adaptive pooling |
| `down: max` | output i is the maximum of the same values | torch's adaptive pooling |
| `down: strided` | a convolution with stride s = floor(n/m) and kernel n - s (m - 1), without padding | `paper` for whole ratios |
| `up: nearest` | output i is the value floor(i n/m) | torch's `nearest` |
| `up: bilinear` | output i is interpolated between the two values around (i + 1/2) n/m - 1/2 | torch's `bilinear`, `align_corners=False` |

`down: strided` is for stitches whose weights can be applied to a window; the number of parameters then
grows with the ratio of the sizes. A stitch whose weights are applied to single positions pools before
it applies them, and upsamples afterward. `conv3x3`, `basic_block` and `bottleneck` match the receiver's
size before they apply weights. With `down: max`, a stitch is invariant to fewer maps, because mixing
channels before a maximum differs from mixing them after it.

On a GPU, torch's adaptive pooling and interpolation have no deterministic gradient. Stitch Sweep
therefore doesn't use them. For whole ratios, `average` is plain pooling and `nearest` copies values. All
other averages and interpolations are products with one small matrix per axis.

A plugin registers further rules with `SHRINKING_RULES` (m < n) or `GROWING_RULES` (m > n). A rule is a
function of n and m that returns a matrix [m, n] whose rows sum to 1.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PlainSerializer, WrapValidator
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import GROWING_RULES, SHRINKING_RULES, accept_registered

Size = tuple[int, int]
Pool = Annotated[
    Literal["average", "max"],
    WrapValidator(partial(accept_registered, SHRINKING_RULES)),
    PlainSerializer(str),
]
"""Rules for an axis that shrinks."""
Up = Annotated[
    Literal["nearest", "bilinear"],
    WrapValidator(partial(accept_registered, GROWING_RULES)),
    PlainSerializer(str),
]
"""Rules for an axis that grows."""


class Resize(nn.Module):
    """Change height and width by a fixed rule, each axis independently.

    The docstring of the module defines the rules. `bilinear` repeats the border.

    Args:
        size: (H, W) of the input.
        target: (H', W') of the output.
        rule: `average`, `max`, `nearest`, `bilinear`, or a registered one; an axis whose size doesn't
            change isn't changed.

    Raises:
        InputError: a registered rule returns no matrix [m, n] whose rows sum to 1.
    """

    h: Tensor | None
    w: Tensor | None

    def __init__(self, size: Size, target: Size, rule: Pool | Up) -> None:
        super().__init__()
        self.size, self.target, self.rule = size, target, rule
        for name, n, m in zip("hw", size, target, strict=True):
            tensor = None if n == m else torch.from_numpy(_table(rule, n, m))
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, H', W']."""
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
        """Apply the transposed map, [B, C, H', W'] to [B, C, H, W]: sum the outputs of each value."""
        y = y if self.h is None else self.h.T.to(y.dtype) @ y
        return y if self.w is None else y @ self.w.to(y.dtype)

    def copies(self) -> Tensor:
        """Return the total weight of each value in the output, float64 [H W]: copies for `nearest`."""
        h, w = (
            torch.ones(n, dtype=torch.float64) if table is None else table.double().sum(dim=0).cpu()
            for n, table in zip(self.size, (self.h, self.w), strict=True)
        )
        return torch.outer(h, w).flatten()


class BesideClassToken(nn.Module):
    """A `Resize` of the patches of a sequence that doesn't change the class token before them.

    Positions are in one row, the class token first, so it acts as a `Resize` of maps (1, 1 + H W).

    Args:
        patches: resizes the map of patches.
    """

    def __init__(self, patches: Resize) -> None:
        super().__init__()
        self.patches, self.rule = patches, patches.rule
        self.size: Size = (1, 1 + math.prod(patches.size))
        self.target: Size = (1, 1 + math.prod(patches.target))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, 1, 1 + H W] to [B, C, 1, 1 + H' W']."""
        return self._map_patches(x, self.patches.size, self.patches)

    def sums(self, y: Tensor) -> Tensor:
        """Apply the transposed map, [B, C, 1, 1 + H' W'] to [B, C, 1, 1 + H W]: see `Resize.sums`."""
        return self._map_patches(y, self.patches.target, self.patches.sums)

    def copies(self) -> Tensor:
        """Return the total weight of each value in the output, [1 + H W]: see `Resize.copies`."""
        return functional.pad(self.patches.copies(), (1, 0), value=1.0)

    def _map_patches(self, x: Tensor, size: Size, change: Callable[[Tensor], Tensor]) -> Tensor:
        patches = change(x[..., 1:].unflatten(3, size).squeeze(2))
        return torch.cat([x[..., :1], patches.flatten(2).unsqueeze(2)], dim=3)


def _repeat(y: Tensor, rows: int, columns: int) -> Tensor:
    """Upsample by whole numbers, by nearest neighbor."""
    b, c, h, w = y.shape
    spread = y[:, :, :, None, :, None].expand(b, c, h, rows, w, columns)
    return spread.reshape(b, c, h * rows, w * columns)


def _windows(n: int, m: int) -> list[range]:
    """Return the values that each of m outputs pools, of n values."""
    return [range(i * n // m, -((i + 1) * -n // m)) for i in range(m)]


def _average(n: int, m: int) -> NDArray[np.float64]:
    table = np.zeros((m, n))
    for i, window in enumerate(_windows(n, m)):
        table[i, window] = 1 / len(window)
    return table


def _max(n: int, m: int) -> NDArray[np.int64]:
    """Return the values of each window, [m, L]; the last value is repeated in a shorter window."""
    windows = _windows(n, m)
    longest = max(map(len, windows))
    return np.array([[min(w.start + k, w.stop - 1) for k in range(longest)] for w in windows])


def _nearest(n: int, m: int) -> NDArray[np.float64]:
    table = np.zeros((m, n))
    table[np.arange(m), np.arange(m) * n // m] = 1
    return table


def _bilinear(n: int, m: int) -> NDArray[np.float64]:
    centers = np.maximum((np.arange(m) + 0.5) * n / m - 0.5, 0)
    low = centers.astype(int)
    table = np.zeros((m, n))
    # Weights are added, because both neighbors are the same value at the border.
    np.add.at(table, (np.arange(m), low), 1 - (centers - low))
    np.add.at(table, (np.arange(m), np.minimum(low + 1, n - 1)), centers - low)
    return table


def _table(rule: str, n: int, m: int) -> NDArray[Any]:
    """Return the table of a rule for an axis of n values that gets m."""
    if rule in _TABLES:
        return _TABLES[rule](n, m)
    registry = SHRINKING_RULES if m < n else GROWING_RULES
    table = np.asarray(registry.build(rule, n, m), dtype=np.float64)
    if table.shape != (m, n) or not np.allclose(table.sum(axis=1), 1):
        raise InputError(
            f"{registry.kind} {rule!r}: returned no matrix [{m}, {n}] whose rows sum to 1 for {n} "
            f"values that become {m}"
        )
    return table


_TABLES: dict[str, Callable[[int, int], NDArray[Any]]] = {
    "average": _average,
    "max": _max,
    "nearest": _nearest,
    "bilinear": _bilinear,
}
