"""Parts of a frozen network as training steps run them: layout, number format, compilation."""

from __future__ import annotations

import operator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional


def has_one_layer(part: nn.Module) -> bool:
    """Return whether a part only pools, normalizes and applies one linear layer: the last column.

    Such a part stays in float32, because the conversions would cost more than bfloat16 saves.
    """
    if not isinstance(part, fx.GraphModule):
        return False
    leaves = [module for module in part.modules() if not list(module.children())]
    layers = [module for module in leaves if any(p.ndim >= 2 for p in module.parameters())]
    products = {operator.matmul, torch.matmul, torch.bmm, torch.einsum, torch.conv2d}
    products |= {functional.linear, functional.conv2d, functional.scaled_dot_product_attention}
    return (
        len(layers) <= 1
        and all(isinstance(module, nn.Linear) for module in layers)
        and not any(node.target in products for node in part.graph.nodes)
    )


class FastPart(nn.Module):
    """A part of a frozen network that computes in another memory layout or number format.

    Args:
        body: the part, with weights in float32.
        channels_last: whether the body takes maps channels last.
        bfloat16: whether the body runs under autocast: convolutions and matrix products in bfloat16,
            normalizations and softmax in float32. The output is float32 in any case.
    """

    def __init__(self, body: nn.Module, *, channels_last: bool, bfloat16: bool) -> None:
        super().__init__()
        self.body = body
        self.training = False
        self._channels_last = channels_last
        self._bfloat16 = bfloat16

    def forward(self, value: Tensor) -> Tensor:
        """Map [B, *shape at the start] to [B, *shape at the end], float32."""
        if self._channels_last and value.ndim == 4:
            # Cast maps here. Otherwise the first skip connection, and all later sums, would stay in
            # float32.
            dtype = torch.bfloat16 if self._bfloat16 else torch.float32
            value = value.to(dtype, memory_format=torch.channels_last)
        with self._number_format(value.device.type):
            output: Tensor = self.body(value)
        return output.float()

    def in_float32(self) -> FastPart:
        """Return the same part in float32 and not compiled."""
        body = self.body.part if isinstance(self.body, CompiledBody) else self.body
        return FastPart(body, channels_last=self._channels_last, bfloat16=False)

    def _number_format(self, kind: str) -> AbstractContextManager[object]:
        if self._bfloat16:
            return torch.autocast(kind, dtype=torch.bfloat16)
        return nullcontext()


class CompiledBody(nn.Module):
    """A part that is compiled again for every shape of its input, when it first sees it.

    torch.compile on its own changes from static to dynamic shapes after the second shape, and gives up
    after eight, so that bits would depend on the shapes that the process has seen before. Here every
    shape has its own compiled function.

    Args:
        part: the part to compile.
    """

    def __init__(self, part: fx.GraphModule) -> None:
        super().__init__()
        self.part = part
        self.training = False
        self._compiled: dict[Any, Any] = {}

    def forward(self, value: Tensor) -> Tensor:
        """Map [B, *shape at the start] to [B, *shape at the end]."""
        gradient = torch.is_grad_enabled() and value.requires_grad
        key = (*value.shape, gradient, value.device, torch.is_autocast_enabled(value.device.type))
        if key not in self._compiled:
            # The compiler's limits count per code object, and a new module has its own.
            fresh = fx.GraphModule(self.part, self.part.graph)
            fresh.training = False
            self._compiled[key] = torch.compile(
                fresh, dynamic=False, fullgraph=True, options={"compile_threads": 1}
            )
        output: Tensor = self._compiled[key](value)
        return output
