"""From which layers of a network the gradient of the logits comes back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stitch_sweep.hooked import Cuttable
from stitch_sweep.sources.building import what_went_wrong
from stitch_sweep.subgraphs import eval_mode


@dataclass(frozen=True)
class GradientFlow:
    """How far gradients reach into a network from its logits.

    Attributes:
        last_blocked: the last layer that no gradient reaches, -2 where all layers are reached. A stitch
            into it or an earlier layer can't be trained by the logits.
        place: between which layers the gradient ends, and why as far as it is known.
        last_zero: the last layer that only gradients of exactly 0 reach, -2 where there is none.
    """

    last_blocked: int = -2
    place: str = ""
    last_zero: int = -2


def gradient_flow(model: nn.Module, network: Cuttable, images: Tensor) -> GradientFlow:
    """Send a gradient back through a network, from each layer to the one before it.

    Args:
        model: the module.
        network: the same, which can be cut.
        images: `[B, C, H, W]`.
    """
    generator = torch.Generator().manual_seed(0)
    names = [f"layer {layer.index} ({layer.name})" for layer in network.layers]
    names = ["the image", *names, "the logits"]
    last = len(network.layers) - 1
    blocked, zero, place = -2, -2, ""
    value = images
    with eval_mode(model), torch.enable_grad():
        for layer in range(-1, last + 1):
            value = value.detach().clone().requires_grad_()
            why, gradient = "", None
            try:
                end = network.sub_network(layer, layer + 1 if layer < last else None)(value)
                if end.requires_grad:
                    direction = torch.randn(end.shape, generator=generator).to(end)
                    (gradient,) = torch.autograd.grad(end, value, direction, allow_unused=True)
            except Exception as error:  # it is anybody's code
                why = f" ({what_went_wrong(error)})"
                end = network.sub_network(-1, layer + 1 if layer < last else None)(images)
            if gradient is None:
                blocked, place = layer, f"between {names[layer + 1]} and {names[layer + 2]}{why}"
            elif not gradient.any():
                zero = layer
            value = end
    return GradientFlow(blocked, place, zero)
