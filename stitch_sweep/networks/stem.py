"""Initial filters of a network's first convolution, for whitened patches of the images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_FLOOR = 1e-3
"""Smallest eigenvalue of the patches' covariance that counts, as a share of the mean eigenvalue."""


@torch.no_grad()
def whiten_stem(network: nn.Module, images: Tensor) -> bool:
    """Multiply the first convolution's initial weights by the inverse root of the patches' covariance.

    Neighboring pixels are alike, so random filters mostly see a patch's mean. With covariance C of the
    patches, filters W C^(-1/2) see all directions of the patches' space equally, as if the patches were
    whitened (Page 2018, "How to train your ResNet"; Jordan 2024, arXiv 2404.00498). One factor for all
    filters keeps the mean variance of the outputs. Training may change all of these weights.

    Args:
        network: a newly built network; only the weight of its first convolution changes.
        images: normalized training images, `[B, C, H, W]`, on the network's device.

    Returns:
        Whether the network has such a convolution: the first that runs, without groups, and with the
        channels of an image.
    """
    found = _find_stem(network, images)
    if found is None:
        return False
    stem, inputs = found
    patches = functional.unfold(
        inputs, stem.kernel_size, dilation=stem.dilation, stride=stem.stride
    )
    rows = patches.transpose(1, 2).flatten(0, 1).double().cpu()
    covariance = torch.cov(rows.T)
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    floor = _FLOOR * eigenvalues.mean()
    if not floor > 0:
        return False
    whitening = vectors @ torch.diag(eigenvalues.clamp(min=floor).rsqrt()) @ vectors.T
    weights = stem.weight.detach().double().cpu().flatten(1)
    whitened = weights @ whitening
    before, after = (((w @ covariance) * w).sum() for w in (weights, whitened))
    stem.weight.copy_((whitened * (before / after).sqrt()).view_as(stem.weight))
    return True


def _find_stem(network: nn.Module, images: Tensor) -> tuple[nn.Conv2d, Tensor] | None:
    """Return the first convolution that runs, and its input; None if it isn't one to whiten."""
    runs: list[tuple[nn.Conv2d, Tensor]] = []

    def record(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        if not runs:
            runs.append((module, arguments[0]))

    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    handles = [module.register_forward_pre_hook(record) for module in convolutions]
    try:
        network.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    if not runs or runs[0][0].groups != 1 or runs[0][0].in_channels != images.shape[1]:
        return None
    return runs[0]
