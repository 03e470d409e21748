"""A part of a network that torch.fx can't trace, made with hooks on two of its submodules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.networks.cutting.channels import TO_CHANNELS_FIRST, TO_CHANNELS_LAST
from stitch_sweep.networks.cutting.modules import inner_prefix, required_submodule
from stitch_sweep.networks.cutting.running import black_image, eval_mode

IMAGE = ""
"""Represents the image among paths of submodules."""


class _Stop(Exception):  # noqa: N818  (not an error: it carries the value)
    def __init__(self, value: Tensor) -> None:
        self.value = value


class HookedPart(nn.Module):
    """A part of a network between two of its submodules.

    A prefix runs the model and stops behind a submodule. A suffix runs the model on black images and
    replaces that submodule's output by its input, so it takes the time of the whole network.

    Args:
        model: the whole network.
        start: path of the submodule whose output the part takes; empty for the image.
        end: path of the submodule whose output the part returns; None for the network's output.
        image_shape: `(C, H, W)`.
        channels_last: whether the maps at the start and at the end have channels last; the part takes and
            returns maps with channels first.
    """

    def __init__(
        self,
        model: nn.Module,
        start: str,
        end: str | None,
        image_shape: Sequence[int],
        channels_last: tuple[bool, bool] = (False, False),
    ) -> None:
        super().__init__()
        self.model = model
        self._ends = (start, end)
        self._image_shape = tuple(image_shape)
        self._channels_last = channels_last

    def forward(self, value: Tensor) -> Tensor:
        """Map `[B, *shape at start]` to `[B, *shape at end]`."""
        start, end = self._ends
        if start == end:
            return value
        hooks = []
        # Copy the value, because the model may work in place.
        entry, image = value.clone(), value.clone()
        if self._channels_last[0]:
            entry = entry.permute(TO_CHANNELS_LAST).contiguous()
        if start:
            image = (
                black_image(self.model, self._image_shape).expand(len(value), -1, -1, -1).clone()
            )
            module = required_submodule(self.model, start)
            hooks.append(module.register_forward_hook(lambda *_: entry))
        if end is not None:

            def stop(_: nn.Module, __: Any, output: Tensor) -> None:
                raise _Stop(output)

            hooks.append(required_submodule(self.model, end).register_forward_hook(stop))
        try:
            result: Tensor = self.model(image)
        except _Stop as stopped:
            output = _leave_inference_mode(stopped.value)
            if self._channels_last[1]:
                return output.permute(TO_CHANNELS_FIRST).contiguous()
            return output
        finally:
            for hook in hooks:
                hook.remove()
        return _leave_inference_mode(result)

    def used_tensors(self) -> dict[str, Tensor]:
        """Return the parameters that the output depends on, and the buffers of the same modules.

        Returns:
            Tensors by the network's names.
        """
        start, _ = self._ends
        ends = (False, self._channels_last[0])
        prefix_part = HookedPart(self.model, IMAGE, start, self._image_shape, ends)
        parameters = dict(self.model.named_parameters())
        required_gradients = {name: p.requires_grad for name, p in parameters.items()}
        generator = torch.Generator().manual_seed(0)
        image = black_image(self.model, self._image_shape)
        noise = torch.randn(image.shape, generator=generator).to(image)
        try:
            with eval_mode(self.model), torch.enable_grad():
                with torch.no_grad():
                    value = prefix_part(noise)
                for parameter in parameters.values():
                    parameter.requires_grad_()
                output = self(value)
                gradients: Sequence[Tensor | None] = [None] * len(parameters)
                if output.requires_grad:
                    inputs = list(parameters.values())
                    gradients = torch.autograd.grad(output.sum(), inputs, allow_unused=True)
        finally:
            for name, parameter in parameters.items():
                parameter.requires_grad_(required_gradients[name])
        names = {
            name
            for name, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None
        }
        holders = {name.rpartition(".")[0] for name in names}
        prefix = inner_prefix(self.model)
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.model.state_dict(keep_vars=True).items()
            if name in names or (name not in parameters and name.rpartition(".")[0] in holders)
        }


def tensors_of_part(part: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a part of a network.

    A part with hooks contains the whole network; only the tensors that its output depends on are
    returned.
    """
    if isinstance(part, HookedPart):
        return part.used_tensors()
    return part.state_dict(keep_vars=True)


def _leave_inference_mode(value: Tensor) -> Tensor:
    """Return a tensor from inference mode as a copy that autograd accepts; other values unchanged."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
