"""Find the layers of a network from which gradients reach the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stitch_sweep.core.foreign_errors import describe_error
from stitch_sweep.networks.cutting.opening import CuttableNetwork
from stitch_sweep.networks.cutting.running import eval_mode


@dataclass(frozen=True)
class GradientFlow:
    """The layers of a network that gradients from its logits reach.

    Attributes:
        last_blocked: the last layer that no gradient reaches, -2 if gradients reach all layers. A stitch
            into it or an earlier layer can't be trained through the logits.
        place: the two layers between which the gradient ends, and the exception that ended it, if any.
        last_zero: the last layer whose gradient is exactly 0, -2 if there is none.
    """

    last_blocked: int = -2
    place: str = ""
    last_zero: int = -2


def gradient_flow(model: nn.Module, network: CuttableNetwork, images: Tensor) -> GradientFlow:
    """Send a gradient back through a network, from each layer to the previous layer.

    Args:
        model: the network.
        network: the same network, opened for cutting.
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
            gradient, error = gradient_through(part, value)
            if gradient is None:
                blocked, place = layer, f"between {names[layer + 1]} and {names[layer + 2]}{error}"
            elif not gradient.any():
                zero = layer
            with torch.no_grad():
                value = part(value)
    return GradientFlow(blocked, place, zero)


def gradient_through(part: nn.Module, value: Tensor) -> tuple[Tensor | None, str]:
    """Send a random gradient back through a part of a network.

    Args:
        part: the part, in eval mode.
        value: the part's input.

    Returns:
        The gradient with respect to `value`, None without a gradient; and the part's exception in
        brackets, empty without an exception.
    """
    value = value.detach().clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.enable_grad():
            output = part(value)
            if not output.requires_grad:
                return None, ""
            direction = torch.randn(output.shape, generator=generator).to(output)
            (gradient,) = torch.autograd.grad(output, value, direction, allow_unused=True)
    except Exception as error:  # a user's network may raise anything
        return None, f" ({describe_error(error)})"
    return gradient, ""
