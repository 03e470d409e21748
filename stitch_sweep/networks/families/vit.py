"""Small vision transformers, whose representations are sequences of tokens."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from stitch_sweep.core.bounds import Depth, Width
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import FAMILIES

_EPS = 1e-6
_MOST_PATCHES = 4096
"""Largest number of tokens; attention's memory grows with its square."""

_NAMED = {
    "vit_tiny": {"depth": 12, "width": 192, "heads": 3},
    "vit_small": {"depth": 12, "width": 384, "heads": 6},
    "vit_base": {"depth": 12, "width": 768, "heads": 12},
}


class Embedding(nn.Module):
    """Turn an image into a sequence of tokens: a linear map of each patch, plus a learned position.

    Patches are numbered row by row. An optional class token, the same for every image, precedes them.

    Args:
        in_channels: channels of the image.
        grid: patches on a side of the image, g.
        patch: pixels on a side of a patch.
        width: length of a token, D.
        class_token: whether there is a class token.
    """

    def __init__(
        self, in_channels: int, grid: int, patch: int, width: int, class_token: bool
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.position = nn.Parameter(torch.empty(1, grid**2 + class_token, width))
        nn.init.trunc_normal_(self.patches.weight, std=(in_channels * patch**2) ** -0.5)
        nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]  # Conv2d has one by default
        nn.init.normal_(self.position, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, in_channels, g * patch, g * patch]` to `[B, T, D]`; T = g^2, or g^2 + 1."""
        # Contiguous like stored representations, because a sum's last bits depend on its strides.
        tokens = self.patches(x).flatten(2).transpose(1, 2).contiguous()
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        return tokens + self.position


class Attention(nn.Module):
    """Multi-head self-attention: softmax(Q K^T / sqrt(D / heads)) V in every head (Vaswani et al. 2017).

    Written with single operations, because the order of the sums in torch's fused kernels may depend on
    `requires_grad`.

    Args:
        width: length of a token, D.
        heads: h, a divisor of D.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, T, D]` to `[B, T, D]`."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # [B, h, T, D / h] each
        weights = ((self.scale * q) @ k.transpose(2, 3)).softmax(dim=3)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Attention, then a perceptron with 4 D hidden units, each after a LayerNorm and with a skip.

    Args:
        width: length of a token, D.
        heads: heads of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, T, D]` to `[B, T, D]`."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patch embedding, encoder blocks, LayerNorm, linear head (Dosovitskiy et al. 2021).

    arXiv 2010.11929. The head reads the class token, or without class token the mean over all tokens
    (Beyer et al. 2022, arXiv 2205.01580). Initial weights: linear maps Xavier uniform, the patches' map
    truncated normal with variance 1 / fan_in, positions normal with standard deviation 0.02, class token
    and biases 0, the head at torch's default, drawn from torch's global generator. There is no dropout.

    Args:
        in_channels: channels of the image.
        num_classes: length of the logits.
        grid: patches on a side of the image.
        depth: number of encoder blocks.
        width: length of a token.
        heads: heads of every attention; a divisor of the width.
        patch: pixels on a side of a patch.
        class_token: whether there is a class token.

    Attributes:
        layer_names: the layers of stitching: the embedding, then every encoder block.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        grid: int,
        depth: int,
        width: int,
        heads: int,
        patch: int,
        class_token: bool,
    ) -> None:
        super().__init__()
        self.class_token = class_token
        self.embedding = Embedding(in_channels, grid, patch, width, class_token)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.fc = nn.Linear(width, num_classes)
        self.layer_names = ["embedding"] + [f"blocks.{k}" for k in range(depth)]
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images `[B, in_channels, H, W]` to logits `[B, num_classes]`."""
        tokens = self.norm(self.blocks(self.embedding(x)))
        return self.fc(tokens[:, 0] if self.class_token else tokens.mean(dim=1))


@FAMILIES.register("vit")
def vit(
    in_channels: int,
    num_classes: int,
    image_size: int = 32,
    *,
    depth: Depth,
    width: Width = 192,
    heads: Width = 3,
    patch: Width = 4,
    class_token: bool = True,
) -> ViT:
    """Vision transformer for small images: patches as tokens, learned positions, and pre-norm encoder
    blocks without dropout.

    Layers: the embedding, and every encoder block: a sequence of T tokens of w values. T is (s /
    `patch`)^2, plus 1 with `class_token`.

    Short names: `vit6` for depth 6, and likewise for other depths from 1 to 99; `vit_tiny`, `vit_small`
    and `vit_base` for depth 12, width 192, 384 and 768, and 3, 6 and 12 heads.

    Limits: a network takes only images of the size that it was trained with, and at most 4096 patches.
    `heads` must divide `width`, and `patch` must divide the image's side.

    Source: Dosovitskiy et al. 2021, arXiv 2010.11929.

    Args:
        in_channels: channels of the image.
        num_classes: length of the logits.
        image_size: pixels on a side; the network takes only images of this size.
        depth: number of encoder blocks.
        width: number of values of a token.
        heads: number of attention heads in each block.
        patch: side of a patch in pixels.
        class_token: `true`: the class token comes first, and the head reads this token; `false`: the
            head reads the mean of the tokens.

    Raises:
        InputError: `heads` doesn't divide `width`, `patch` doesn't divide `image_size`, or there would be
            too many tokens.

    Example:
        >>> vit(3, 10, depth=2, width=12, heads=2)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    problems = []
    if width % heads:
        problems.append(
            f"network family vit, heads: {heads} heads can't share a width of {width} evenly; "
            f"allowed: {', '.join(map(str, _divisors(width)))}"
        )
    if image_size % patch:
        problems.append(
            f"network family vit, patch: images of {image_size}x{image_size} can't be cut into patches "
            f"of {patch}x{patch}; allowed: {', '.join(map(str, _divisors(image_size)))}"
        )
    elif (image_size // patch) ** 2 > _MOST_PATCHES:
        problems.append(
            f"network family vit, patch: images of {image_size}x{image_size} in patches of "
            f"{patch}x{patch} make {(image_size // patch) ** 2} patches; allowed: at most {_MOST_PATCHES}"
        )
    if problems:
        raise InputError(*problems)
    return ViT(
        in_channels,
        num_classes,
        grid=image_size // patch,
        depth=depth,
        width=width,
        heads=heads,
        patch=patch,
        class_token=class_token,
    )


def _divisors(number: int) -> list[int]:
    small = [k for k in range(1, math.isqrt(number) + 1) if number % k == 0]
    return sorted({*small, *(number // k for k in small)})


def named(name: str) -> dict[str, Any] | None:
    """Return the options of a named network; None for any other name.

    `vit_tiny`, `vit_small` and `vit_base` have the depth, width and heads of Touvron et al.'s (2021,
    arXiv 2012.12877) and Dosovitskiy et al.'s (2021) networks, and patches for small images. `vitD` has D
    encoder blocks, 1 to 99.
    """
    digits = re.fullmatch(r"vit([1-9]\d?)", name)
    if digits:
        return {"depth": int(digits[1])}
    return dict(_NAMED[name]) if name in _NAMED else None


NAME_FORMS = [*_NAMED, "vitD with D from 1 to 99 (encoder blocks)"]
