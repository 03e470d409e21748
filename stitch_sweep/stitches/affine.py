"""Stitches that are affine maps of the sender's representation: `paper`, `conv1x1`, `linear`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.errors import InputError
from stitch_sweep.registry import STITCHES
from stitch_sweep.stitches.shapes import Shape, show, unfit


class AffineStitch(nn.Module, ABC):
    """A stitch whose output positions are each `W r + b` of one row r of its input.

    That structure is what least squares needs: `rows` and `target_rows` line the inputs up with what
    they should become.
    """

    replication: int = 1
    """Output positions per row: u^2 for upsampling by u, which copies each result u^2 times."""

    inputs: int
    """D, the length of a row."""

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """The inputs of the affine map, [n, D], for a batch [B, *sender]."""

    @abstractmethod
    def target_rows(self, y: Tensor) -> Tensor:
        """Wanted outputs [n, C], for a batch [B, *receiver]; summed over the copies of a row."""

    @abstractmethod
    def start_as_identity(self) -> None:
        """Set W to the identity and b to 0.

        Raises:
            InputError: W isn't square.
        """


class SpatialStitch(AffineStitch):
    """Average pooling by p, a k x k convolution with stride k, nearest-neighbour upsampling by u.

        S(x) = up_u(W * pool_p(x) + b)

    Upsampling comes after the convolution: for a 1x1 kernel the two commute exactly, and this order
    costs u^2 times less.

    Args:
        sender: (C, H, W).
        receiver: (C', H', W') with H' = H u / (p k), likewise W'.
        kernel: k, size and stride of the convolution.
        pool: p.
        upsample: u.
    """

    def __init__(
        self, sender: Shape, receiver: Shape, *, kernel: int = 1, pool: int = 1, upsample: int = 1
    ) -> None:
        super().__init__()
        self.kernel, self.pool, self.upsample = kernel, pool, upsample
        self.replication = upsample**2
        self.inputs = sender[0] * kernel**2
        self.conv = nn.Conv2d(sender[0], receiver[0], kernel, stride=kernel)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        y = self.conv(self._pooled(x))
        # Not functional.interpolate: its backward has no deterministic version on a GPU.
        return _repeat(y, self.upsample) if self.upsample > 1 else y

    def rows(self, x: Tensor) -> Tensor:
        """Non-overlapping k x k patches of the pooled map, [B H'' W'', C k^2]."""
        x, k = self._pooled(x), self.kernel
        b, c, h, w = x.shape
        patches = x.reshape(b, c, h // k, k, w // k, k).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(b * (h // k) * (w // k), c * k * k)

    def target_rows(self, y: Tensor) -> Tensor:
        """Sums over the u x u positions that one row becomes, [B H'' W'', C']."""
        b, c, h, w = y.shape
        u = self.upsample
        sums = y.reshape(b, c, h // u, u, w // u, u).sum(dim=(3, 5))
        return sums.permute(0, 2, 3, 1).reshape(-1, c)

    def start_as_identity(self) -> None:
        """A 1x1 convolution that copies its channels."""
        c_out, c_in = self.conv.weight.shape[:2]
        if c_in != c_out or self.kernel != 1:
            raise InputError(
                f"a {self.kernel}x{self.kernel} convolution from {c_in} to {c_out} channels can't "
                "start as the identity: it needs equal channels and a 1x1 kernel"
            )
        nn.init.dirac_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def _pooled(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, self.pool) if self.pool > 1 else x


class LinearStitch(AffineStitch):
    """S(x) = W flatten(x) + b, into a vector layer.

    Args:
        sender: any shape, D values in all.
        receiver: (D',).
    """

    def __init__(self, sender: Shape, receiver: Shape) -> None:
        super().__init__()
        self.inputs = math.prod(sender)
        self.linear = nn.Linear(self.inputs, receiver[0])

    def forward(self, x: Tensor) -> Tensor:
        """[B, *sender] -> [B, D']."""
        return self.linear(self.rows(x))

    def rows(self, x: Tensor) -> Tensor:
        """[B, D]."""
        return x.flatten(1)

    def target_rows(self, y: Tensor) -> Tensor:
        """[B, D'], as it is."""
        return y

    def start_as_identity(self) -> None:
        """W the unit matrix."""
        d_out, d_in = self.linear.weight.shape
        if d_in != d_out:
            raise InputError(f"a map from {d_in} to {d_out} values can't start as the identity")
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


@STITCHES.register("paper")
def paper(sender: Shape, receiver: Shape) -> SpatialStitch:
    """The stitch of Hernandez et al. 2023 (arXiv 2303.11277).

    Where the receiver's map is k times smaller: a k x k convolution with stride k. Where it is larger:
    nearest-neighbour upsampling and a 1x1 convolution. Else a 1x1 convolution. All with bias.

    Args:
        sender: (C, H, W).
        receiver: (C', H', W'), with H/H' = W/W' or its inverse a whole number.

    Raises:
        InputError: a vector, or sizes whose ratio is no whole number.
    """
    down, up = _ratio("paper", sender, receiver)
    return SpatialStitch(sender, receiver, kernel=down, upsample=up)


@STITCHES.register("conv1x1")
def conv1x1(sender: Shape, receiver: Shape) -> SpatialStitch:
    """A 1x1 convolution with bias, after average pooling or before nearest-neighbour upsampling.

    It mixes channels only, so its capacity doesn't grow with the ratio of the maps as `paper`'s does.

    Args:
        sender: (C, H, W).
        receiver: (C', H', W'), with H/H' = W/W' or its inverse a whole number.

    Raises:
        InputError: a vector, or sizes whose ratio is no whole number.
    """
    down, up = _ratio("conv1x1", sender, receiver)
    return SpatialStitch(sender, receiver, pool=down, upsample=up)


@STITCHES.register("linear")
def linear(sender: Shape, receiver: Shape) -> LinearStitch:
    """A full linear map with bias from anything into a vector layer.

    Args:
        sender: any shape.
        receiver: (D',).

    Raises:
        InputError: the receiver's layer is a feature map.
    """
    if len(receiver) != 1:
        raise unfit("linear", sender, receiver, "a receiver layer that is a vector")
    return LinearStitch(sender, receiver)


def _repeat(y: Tensor, times: int) -> Tensor:
    """Nearest-neighbour upsampling by a whole number, [B, C, H, W] -> [B, C, H t, W t]."""
    b, c, h, w = y.shape
    spread = y[:, :, :, None, :, None].expand(b, c, h, times, w, times)
    return spread.reshape(b, c, h * times, w * times)


def _ratio(name: str, sender: Shape, receiver: Shape) -> tuple[int, int]:
    """How many times smaller and larger the receiver's map is: (k, 1), (1, u) or (1, 1)."""
    if len(sender) != 3 or len(receiver) != 3:
        raise unfit(name, sender, receiver, "two feature maps (into a vector: 'linear')")
    (h, w), (h2, w2) = sender[1:], receiver[1:]
    if h % h2 == 0 and w % w2 == 0 and h // h2 == w // w2:
        return h // h2, 1
    if h2 % h == 0 and w2 % w == 0 and h2 // h == w2 // w:
        return 1, h2 // h
    raise unfit(
        name,
        sender,
        receiver,
        f"maps whose sizes divide evenly, not {show((h, w))} and {show((h2, w2))}",
    )
