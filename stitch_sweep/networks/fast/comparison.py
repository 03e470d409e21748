"""Compare a fast part of a frozen network with the network as it is: outputs and gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stitch_sweep.core.seeding import generator


@dataclass(frozen=True)
class Tolerance:
    """The largest differences that a fast part may have; see `Difference`."""

    output: float
    gradient: float


FLOAT32 = Tolerance(output=1e-4, gradient=1e-3)
"""Rounding of float32 stays one to two orders of magnitude below; a wrong weight does not."""
BFLOAT16 = Tolerance(output=0.1, gradient=0.6)
"""bfloat16 has 8 bits. The gradient differs more than the output, because ReLUs near 0 change sides."""


@dataclass(frozen=True)
class Difference:
    """The relative differences of a fast part from the exact part.

    Attributes:
        output: the largest absolute difference of an output value, divided by the largest absolute output
            value.
        gradient: the median over images of |g' - g| / |g|, with g the gradient at the part's input. The
            median is robust: one ReLU that changes sides changes the gradient of one image. NaN if no
            gradient reaches the input.
    """

    output: float
    gradient: float

    def exceeds(self, tolerance: Tolerance) -> bool:
        """Return whether a difference is larger than allowed."""
        # `not <=`, so that NaN exceeds any tolerance.
        return not self.output <= tolerance.output or self.gradient > tolerance.gradient


def compare_parts(exact: nn.Module, fast: nn.Module, value: Tensor) -> Difference:
    """Compare two parts on one batch, in a random direction of their outputs.

    Args:
        exact: the part as it is.
        fast: the part that replaces it in training steps.
        value: [B, *shape at the start], which stays unchanged.
    """
    reference = output_and_gradient(exact, value)
    return measure_difference(reference, output_and_gradient(fast, value))


def output_and_gradient(part: nn.Module, value: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return a part's output and the gradient of its random projection, the same for all images.

    Args:
        part: the part.
        value: [B, *shape at the start].

    Returns:
        [B, *shape at the end], and [B, *shape at the start]; None if no gradient reaches the input.
    """
    value = value.detach().clone().requires_grad_()
    with torch.enable_grad():
        output = part(value)
        if not output.requires_grad:
            return output, None
        shape = (1, *output.shape[1:])
        direction = torch.randn(shape, generator=generator("fast network", *shape)).to(output)
        (gradient,) = torch.autograd.grad((output * direction).sum(), value, allow_unused=True)
    return output.detach(), gradient


def measure_difference(
    reference: tuple[Tensor, Tensor | None], other: tuple[Tensor, Tensor | None]
) -> Difference:
    """Measure how far an output and a gradient are from their reference; see `Difference`."""
    (output, gradient), (other_output, other_gradient) = reference, other
    largest = output.abs().max().clamp(min=torch.finfo(output.dtype).tiny)
    gap = ((other_output.to(output) - output).abs().max() / largest).item()
    if gradient is None:
        return Difference(gap, math.nan if other_gradient is None else math.inf)
    if other_gradient is None:
        return Difference(gap, math.inf)
    rows, other_rows = gradient.flatten(1).double(), other_gradient.flatten(1).double()
    norms = rows.norm(dim=1)
    used = norms > 0
    if not used.any():
        return Difference(gap, math.inf if other_rows.any() else math.nan)
    gaps = (other_rows - rows).norm(dim=1)[used] / norms[used]
    return Difference(gap, gaps.nan_to_num(nan=math.inf).median().item())
