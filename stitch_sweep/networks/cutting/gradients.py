"""From which layers of a network the gradient of the logits comes back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stitch_sweep.networks.cutting.hooks import Cuttable
from stitch_sweep.networks.cutting.tracing import eval_mode
from stitch_sweep.networks.external.building import what_went_wrong


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
    names = [f"layer {layer.index} ({layer.name})" for layer in network.layers]
    names = ["the image", *names, "the logits"]
    last = len(network.layers) - 1
    blocked, zero, place = -2, -2, ""
    value = images
    with eval_mode(model):
        for layer in range(-1, last + 1):
            part = network.sub_network(layer, layer + 1 if layer < last else None)
            gradient, why = gradient_through(part, value)
            if gradient is None:
                blocked, place = layer, f"between {names[layer + 1]} and {names[layer + 2]}{why}"
            elif not gradient.any():
                zero = layer
            with torch.no_grad():
                value = part(value)
    return GradientFlow(blocked, place, zero)


def gradient_through(part: nn.Module, value: Tensor) -> tuple[Tensor | None, str]:
    """Send a random gradient back through a part of a network.

    Args:
        part: in eval mode.
        value: what it is given.

    Returns:
        The gradient with respect to `value`, None where none comes back; and in brackets what the part
        raised, empty where it raised nothing.
    """
    value = value.detach().clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.enable_grad():
            end = part(value)
            if not end.requires_grad:
                return None, ""
            direction = torch.randn(end.shape, generator=generator).to(end)
            (gradient,) = torch.autograd.grad(end, value, direction, allow_unused=True)
    except Exception as error:  # it is anybody's code
        return None, f" ({what_went_wrong(error)})"
    return gradient, ""
