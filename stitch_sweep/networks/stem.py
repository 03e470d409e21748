"""Initial filters of a network's first convolution, for whitened patches of the images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.losses.moments import moments_of_rows
from stitch_sweep.stitches.whitened import Whitening

_MOST_VALUES = 2**24
"""Largest number of values of the patches that are in memory at a time, but at least one image's."""


@torch.no_grad()
def whiten_stem(network: nn.Module, images: Tensor) -> bool:
    """Whiten a network's first convolution: start it with weights for decorrelated image patches.

    Neighboring pixels are alike, so random filters W mostly see a patch's mean. The first convolution
    gets the filters W C^(-1/2) instead, where C is the covariance of the patches. They see all
    directions of the patches' space equally, as if the patches were whitened (Page 2018, "How to train
    your ResNet"; Jordan 2024, arXiv 2404.00498). One factor for all filters keeps the mean variance of
    the outputs. Training may change all of these weights.

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
    moments = moments_of_rows(_patches(stem, inputs))
    covariance = moments.xx / moments.count
    if not covariance.trace() > 0:
        return False
    whitening = Whitening.fit(moments.mean_x, covariance, centered=True)
    weights = stem.weight.detach().double().cpu().flatten(1)
    whitened = weights @ whitening.matrix
    before, after = (((w @ covariance) * w).sum() for w in (weights, whitened))
    stem.weight.copy_((whitened * (before / after).sqrt()).view_as(stem.weight))
    return True


def _patches(stem: nn.Conv2d, inputs: Tensor) -> Iterator[Tensor]:
    """Yield the patches that a convolution sees without padding, as rows on the CPU, in chunks."""

    def unfold(images: Tensor) -> Tensor:
        return functional.unfold(
            images, stem.kernel_size, dilation=stem.dilation, stride=stem.stride
        )

    for part in inputs.split(max(1, _MOST_VALUES // unfold(inputs[:1]).numel())):
        yield unfold(part).transpose(1, 2).flatten(0, 1).cpu()


def _find_stem(network: nn.Module, images: Tensor) -> tuple[nn.Conv2d, Tensor] | None:
    """Return the first convolution that runs, and its input; None if it isn't one to whiten."""
    runs: list[tuple[nn.Conv2d, Tensor]] = []

    def record(
        module: nn.Module, arguments: tuple[Tensor, ...], keywords: dict[str, Tensor]
    ) -> None:
        assert isinstance(module, nn.Conv2d)
        if not runs:
            runs.append((module, arguments[0] if arguments else keywords["input"]))

    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    handles = [
        module.register_forward_pre_hook(record, with_kwargs=True) for module in convolutions
    ]
    try:
        network.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    if not runs or runs[0][0].groups != 1 or runs[0][0].in_channels != images.shape[1]:
        return None
    return runs[0]
