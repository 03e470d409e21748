"""How much a stitch can do, and what it costs: the axes of a capacity analysis, and the L1 penalty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stitch_sweep.stitches.base import Stitch


class Capacity(NamedTuple):
    """Size of a stitch.

    Attributes:
        parameters: trained numbers. Of constrained maps these are degrees of freedom: the angles of
            `orthogonal`, none for a permutation; of `lowrank` both factors are counted, r (D + C) + C,
            which is r^2 more than degrees of freedom.
        multiply_adds: products with trained weights for one image. Fixed pooling and upsampling, batch
            normalisation (which folds into its neighbours), biases and copying are not counted; nor is
            what is done once per step and not per image, such as composing the weight of `dora`.
    """

    parameters: int
    multiply_adds: int | None


def capacity(stitch: nn.Module) -> Capacity:
    """Trained parameters, and multiply-adds per image; also on the meta device.

    A module that is no `Stitch` says nothing of its multiply-adds.

    Example:
        >>> capacity(build_stitch("conv1x1", (64, 8, 8), (32, 8, 8)))
        Capacity(parameters=2080, multiply_adds=131072)
    """
    trained = sum(p.numel() for p in stitch.parameters() if p.requires_grad)
    return Capacity(trained, stitch.multiply_adds() if isinstance(stitch, Stitch) else None)


def l1_norm(stitch: nn.Module) -> Tensor:
    """Sum of |w| over the weights that a sparsity penalty acts on, a scalar; 0 where there are none.

    For an affine stitch these are the entries of W as it is applied, however it is parametrised (the
    product of `lowrank`'s factors, the rotation of `orthogonal`), else the weights of the convolutions;
    never biases or what normalises.
    """
    tensors = stitch.sparse_tensors() if isinstance(stitch, Stitch) else []
    if not tensors:
        return torch.zeros((), device=next(iter(stitch.parameters()), torch.empty(0)).device)
    return torch.stack([tensor.abs().sum() for tensor in tensors]).sum()
