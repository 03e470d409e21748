"""Passes of a frozen module over several places, which must treat every place alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitch_sweep.core.seeding import generator

_verdicts: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], bool]] = WeakKeyDictionary()


def treats_places_alike(module: nn.Module, inputs: Tensor, width: int) -> bool:
    """Test whether a place's output and gradient depend neither on the place nor on its neighbors.

    Random batches run again in the next place, beside other neighbors. Their outputs and gradients must
    be equal bit for bit. The test runs once per module, shape and width.

    Args:
        module: frozen, in eval mode.
        inputs: an example, [width * B, ...]; its values don't matter.
        width: number of places.
    """
    verdicts = _verdicts.setdefault(module, {})
    key = (width, inputs.shape, inputs.dtype, inputs.device, torch.get_num_threads())
    if key not in verdicts:
        draws = generator("places")
        batches = _draw(inputs, draws)
        outputs = run_places(module, batches, width)
        directions = _draw(outputs, draws)
        results = outputs, _differentiate(outputs, batches, directions)
        verdicts[key] = all(
            _repeats_in_next_place(module, batches, directions, results, width, parity, draws)
            for parity in (0, 1)
        )
    return verdicts[key]


def _repeats_in_next_place(
    module: nn.Module,
    batches: Tensor,
    directions: Tensor,
    results: tuple[Tensor, Tensor],
    width: int,
    parity: int,
    draws: torch.Generator,
) -> bool:
    """Return whether every other batch has the same results in the next place, among new neighbors."""
    size = len(batches) // width
    kept = torch.arange(len(batches), device=batches.device) // size % 2 == parity

    def move(values: Tensor) -> Tensor:
        values = values.detach()
        moved = torch.where(_align(kept, values), values, _draw(values, draws).detach())
        return moved.roll(size, 0)

    inputs = move(batches).requires_grad_(True)
    outputs = run_places(module, inputs, width)
    gradients = _differentiate(outputs, inputs, move(directions))
    return all(
        torch.equal(now.roll(-size, 0)[kept], before[kept])
        for now, before in zip((outputs, gradients), results, strict=True)
    )


def _draw(like: Tensor, draws: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=draws).to(like).requires_grad_(True)


def _align(rows: Tensor, like: Tensor) -> Tensor:
    return rows.reshape(-1, *[1] * (like.dim() - 1))


def _differentiate(outputs: Tensor, inputs: Tensor, directions: Tensor) -> Tensor:
    (gradients,) = torch.autograd.grad(outputs, inputs, directions)
    return gradients


def run_places(module: nn.Module, inputs: Tensor, width: int) -> Tensor:
    """Call a frozen module on several places at once, with its linear layers place by place.

    The last bits of a matrix product may depend on a row's position, because libraries have special
    kernels for the last rows.

    Args:
        module: frozen, in eval mode.
        inputs: [width * B, ...].
        width: number of places.
    """
    with _linear_layers_by_place(module, width):
        return module(inputs)


@contextmanager
def _linear_layers_by_place(module: nn.Module, width: int) -> Iterator[None]:
    layers = [part for part in module.modules() if type(part) is nn.Linear]
    for layer in layers:
        layer.forward = partial(_apply_by_place, layer, width)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's method becomes visible again


def _apply_by_place(layer: nn.Linear, width: int, inputs: Tensor) -> Tensor:
    if len(inputs) % width:
        return functional.linear(inputs, layer.weight, layer.bias)
    return _LinearByPlace.apply(inputs, layer.weight, layer.bias, width)


class _LinearByPlace(torch.autograd.Function):
    """A frozen linear layer, place by place; copies make the addresses equally aligned."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, width: int
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.width, ctx.dtype = width, inputs.dtype
        return torch.cat([functional.linear(x.clone(), weight, bias) for x in inputs.chunk(width)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        (gradient,) = gradients
        weight = weight.to(gradient.dtype)
        parts = [g.clone() @ weight for g in gradient.chunk(ctx.width)]
        return torch.cat(parts).to(ctx.dtype), None, None, None
