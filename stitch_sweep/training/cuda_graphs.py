"""A frozen module's passes as CUDA graphs: one launch instead of one per kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.training.places import run_places

_WARM_UP_PASSES = 3
"""Passes before the capture, in which libraries choose algorithms and allocate workspaces."""


class GraphedPlaces:
    """Passes of a frozen module over several places of one shape, captured once and replayed.

    A replay runs the kernels of the captured pass, so its bits are those of an ordinary pass. Memory for
    the activations stays allocated as long as the object lives.

    Args:
        module: has no trainable parameter, and runs the same kernels in every pass.
        inputs: an example of the input on a GPU, [width * B, ...].
        width: number of places.
    """

    def __init__(self, module: nn.Module, inputs: Tensor, width: int) -> None:
        self._inputs = inputs.detach().clone().requires_grad_(True)
        # Capture requires that all libraries are warm, and a stream of its own.
        stream = torch.cuda.Stream(inputs.device)
        stream.wait_stream(torch.cuda.current_stream(inputs.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_PASSES):
                logits = run_places(module, self._inputs, width)
                torch.autograd.grad(logits, self._inputs, torch.zeros_like(logits))
        torch.cuda.current_stream(inputs.device).wait_stream(stream)
        self._gradients = torch.zeros_like(logits)
        del logits
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._forward):
            self._logits = run_places(module, self._inputs, width)
        with torch.cuda.graph(self._backward, pool=self._forward.pool()):
            (self._result,) = torch.autograd.grad(self._logits, self._inputs, self._gradients)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output for `inputs`; the next call overwrites it."""
        with torch.no_grad():
            self._inputs.copy_(inputs)
        self._forward.replay()
        return self._logits.detach()

    def backward(self, gradients: Tensor) -> Tensor:
        """Return the gradient of the last call's inputs; the next call overwrites it.

        Args:
            gradients: of the output.
        """
        self._gradients.copy_(gradients)
        self._backward.replay()
        return self._result
