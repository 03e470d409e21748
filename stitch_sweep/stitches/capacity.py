"""The capacity of a stitch is described by its numbers of trained parameters and of multiply-adds.

The results contain both numbers in the columns `stitch_parameters` and `stitch_multiply_adds`.
Multiply-adds are the products with trained weights for one image. Pooling, upsampling, normalization,
biases and copying don't count, nor does work that is done once per step, such as composing the weight
of `dora`.

The key `l1` adds its value times the sum of |w| to the loss. For a stitch that is an affine map, w are
the entries of the map's matrix (the product U V for `lowrank`, the scaled rotation for `orthogonal`). For
`bn_conv1x1_bn`, `mlp` and the residual blocks, w are the weights of the convolutions or linear layers.
The penalty ignores biases and normalization, and has no effect on a permutation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stitch_sweep.stitches.base import Stitch


class Capacity(NamedTuple):
    """Size of a stitch.

    Attributes:
        parameters: number of trained values. For constrained maps these are degrees of freedom: the
            angles of `orthogonal`, none for a permutation. For `lowrank` both factors are counted.
        multiply_adds: products with trained weights for one image. None if unknown.
    """

    parameters: int
    multiply_adds: int | None


def capacity(stitch: nn.Module) -> Capacity:
    """Count trained parameters, and multiply-adds per image; also on the meta device.

    The multiply-adds of a module that is not a `Stitch` are unknown.

    Example:
        >>> capacity(build_stitch("conv1x1", (64, 8, 8), (32, 8, 8)))
        Capacity(parameters=2080, multiply_adds=131072)
    """
    trained = sum(p.numel() for p in stitch.parameters() if p.requires_grad)
    return Capacity(trained, stitch.multiply_adds() if isinstance(stitch, Stitch) else None)


def l1_norm(stitch: nn.Module) -> Tensor:
    """Sum |w| over the weights of a sparsity penalty; return a scalar, 0 without such weights.

    For an affine stitch these are the entries of the applied W for every parametrization; for other
    stitches, the weights of the convolutions.
    """
    tensors = stitch.sparse_tensors() if isinstance(stitch, Stitch) else []
    if not tensors:
        return torch.zeros((), device=next(iter(stitch.parameters()), torch.empty(0)).device)
    return torch.stack([tensor.abs().sum() for tensor in tensors]).sum()
