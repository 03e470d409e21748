"""Layers after which the rest of a network is linear, so that a receiver's column says nothing about it.

If the rest B_{>j} is an affine function, such as pooling and a linear head, the stitched network is an
affine function of the stitch's output. With a stitch that may be any linear map of channels, it can be
any linear classifier of the sender's representation, whatever the receiver has learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stitch_sweep.core.seeding import generator

_SCALES = (1.0, 30.0)
"""Deviations of the random representations: a kink far from 0 is seen by the larger one only."""
_ROWS = 4
_TOLERANCE = 1e-4
"""Largest deviation from an affine function, as a share of the outputs' range: rounding in float32."""


@torch.no_grad()
def is_affine(
    function: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    device: torch.device | str = "cpu",
) -> bool:
    """Return whether f(x) + f(y) = f(x + y) + f(0) holds for random x and y.

    Args:
        function: a part of a network in eval mode, from [B, *shape] to [B, K].
        shape: of its input, without the batch.
        device: of the function.
    """
    random = generator("affine", *shape)
    for scale in _SCALES:
        x, y = ((scale * torch.randn(_ROWS, *shape, generator=random)).to(device) for _ in range(2))
        outputs = function(torch.cat([x, y, x + y, torch.zeros_like(x)]))
        of_x, of_y, of_sum, offset = outputs.double().chunk(4)
        size = max((part - offset).abs().max().item() for part in (of_x, of_y, of_sum))
        # Written so that NaN counts as a deviation.
        if not (of_x + of_y - of_sum - offset).abs().max().item() <= _TOLERANCE * size:
            return False
    return True


def find_linear_rests(
    part: Callable[[int], nn.Module], shapes: Sequence[Sequence[int]]
) -> list[int]:
    """Find the layers of a network after which the rest is affine, ascending.

    Args:
        part: returns the part from a layer to the logits, on the CPU and in eval mode.
        shapes: shape of each layer's representation from layer 0 on.
    """
    linear: list[int] = []
    for layer in reversed(range(len(shapes))):
        if not is_affine(part(layer), shapes[layer]):
            break  # earlier rests contain this one
        linear.insert(0, layer)
    return linear
