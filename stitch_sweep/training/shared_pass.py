"""One pass of a receiver's frozen rest over the outputs of several stitches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stitch_sweep.training.cuda_graphs import GraphedPlaces
from stitch_sweep.training.places import run_places, treats_places_alike


class SharedPass:
    """Forward and backward passes of the frozen rest over a fixed number of places.

    A place holds one batch: a stitch's output, or zeros. All passes of one batch size have the same
    shape, so the same kernels run whatever the places hold. The rest treats images one by one (it is in
    eval mode), so a batch has the same logits and the same gradient in every place, beside any neighbors,
    including neighbors that are not finite. `treats_places_alike` tests this; a module that fails the
    test is called once per place, as it is with one place.

    Args:
        rest: the receiver after the stitch, [B, *receiver shape] to [B, K].
        width: number of places, at least 1.
    """

    def __init__(self, rest: nn.Module, width: int) -> None:
        self.rest = rest
        self.width = width
        self._graphs: dict[torch.Size, GraphedPlaces] = {}
        self._joint_call: tuple[Tensor, Tensor] | None = None
        self._calls: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(self, outputs: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Compute the logits of every place.

        Args:
            outputs: a batch per place, each [B, *receiver shape] with the same B; None for a free place.

        Returns:
            [B, K] per place, without history; None for a free place.
        """
        self._joint_call, self._calls = None, {}
        example = next((output for output in outputs if output is not None), None)
        if example is None:
            return [None] * self.width
        if self.width > 1:
            inputs = self._join(outputs, example)
            if treats_places_alike(self.rest, inputs, self.width):
                logits = self._run_jointly(inputs)
                self._joint_call = inputs, logits
                return self._split(logits.detach(), outputs)
        for place, output in enumerate(outputs):
            if output is not None:
                inputs = output.detach().requires_grad_(True)
                self._calls[place] = inputs, self.rest(inputs)
        return [
            self._calls[place][1].detach() if place in self._calls else None
            for place in range(self.width)
        ]

    def backward(
        self, gradients: Sequence[Tensor | None], direct: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Compute the gradients of the outputs that the last call of `forward` received.

        Args:
            gradients: of the logits, [B, K] per place; None where no gradient arrives.
            direct: gradients that reach the outputs without the rest, [B, *receiver shape] per place, or
                None; they are added.

        Returns:
            [B, *receiver shape] per place; None where no gradient arrived.
        """
        results = list(direct)
        example = next((gradient for gradient in gradients if gradient is not None), None)
        if self._joint_call is not None and example is not None:
            inputs, logits = self._joint_call
            whole = self._differentiate_jointly(inputs, logits, self._join(gradients, example))
            for place, result in enumerate(self._split(whole, gradients)):
                if result is not None:
                    other = direct[place]
                    results[place] = result if other is None else other + result
        for place, (inputs, logits) in self._calls.items():
            if (gradient := gradients[place]) is not None:
                # Autograd adds to the direct gradient one by one what arrives from the uses of `inputs`,
                # as it does in a whole backward pass.
                ends, values = [logits], [gradient]
                if (value := direct[place]) is not None:
                    ends, values = [*ends, inputs], [*values, value]
                (results[place],) = torch.autograd.grad(ends, inputs, values)
        self._joint_call, self._calls = None, {}
        return results

    def _run_jointly(self, inputs: Tensor) -> Tensor:
        if not inputs.is_cuda:
            return run_places(self.rest, inputs.requires_grad_(True), self.width)
        if inputs.shape not in self._graphs:
            self._graphs[inputs.shape] = GraphedPlaces(self.rest, inputs, self.width)
        return self._graphs[inputs.shape].forward(inputs)

    def _differentiate_jointly(self, inputs: Tensor, logits: Tensor, gradients: Tensor) -> Tensor:
        if inputs.is_cuda:
            return self._graphs[inputs.shape].backward(gradients)
        (result,) = torch.autograd.grad(logits, inputs, gradients)
        return result

    def _join(self, parts: Sequence[Tensor | None], example: Tensor) -> Tensor:
        """Return [width * B, ...] with zeros in free places."""
        # A fixed layout, because the layout of a concatenation depends on all of its parts.
        shape = (self.width, *example.shape)
        whole = torch.empty(shape, dtype=example.dtype, device=example.device)
        for place, part in zip(whole, parts, strict=True):
            if part is None:
                place.zero_()
            else:
                place.copy_(part.detach())
        return whole.flatten(0, 1)

    def _split(self, whole: Tensor, like: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the parts of the places that `like` fills."""
        # Copies have equally aligned addresses, on which the bits of later operations may depend.
        return [
            None if part is None else values.clone()
            for values, part in zip(whole.chunk(self.width), like, strict=True)
        ]
