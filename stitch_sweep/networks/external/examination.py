"""Check an external network before it is stitched."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.foreign_errors import describe_error
from stitch_sweep.networks.cutting.running import eval_mode
from stitch_sweep.networks.external.preprocessing import Imported
from stitch_sweep.storage.digests import digest, tensors_of

_IMAGES = 2
"""Number of test images."""
_LOUD = 30.0
"""Standard deviation of noise that is far stronger than any normalized image."""
_SUM_TOLERANCE = 1e-3
"""Tolerance for the sum of an image's probabilities, because float32 rounds it."""


@torch.no_grad()
def examine(network: Imported, *, learns: bool = False) -> int:
    """Run a network twice on the same noise, in eval mode; the network stays unchanged.

    Args:
        network: the network.
        learns: whether it will be trained too, or its BatchNorm statistics filled.

    Returns:
        K, the length of its logits.

    Raises:
        InputError: its parts can't be used (`check_parts`), it can't take the images, its output is not a
            tensor [B, K] of finite float32 numbers, two runs differ (the message names the first
            submodule with different outputs), it changes its own parameters or buffers, or in training it
            returns something other than logits.
    """
    check_parts(network)
    images = _noise(network)
    with torch.random.fork_rng(devices=[]):
        with eval_mode(network):
            output, first = _run(network, images)
            _check_output(output)
            before = _hashes(network)  # after the first run, which completes lazy modules
            _, second = _run(network, images)
        if changed := [name for name, after in _hashes(network).items() if after != before[name]]:
            raise InputError(
                f"changes its own {_first_names(changed)} in eval mode too (as batch_norm with "
                "training=True does), but a frozen network must not change"
            )
        _check_equal(first, second)
        if learns:
            training_copy = copy.deepcopy(network).train()
            training_output, _ = _run(training_copy, images)
            if not isinstance(training_output, Tensor) or training_output.shape != output.shape:
                raise InputError(
                    f"in training it returns {_describe(training_output)}, not the logits alone; disable "
                    "that with arguments such as aux_logits: false"
                )
    return int(output.shape[1])


def check_parts(network: Imported) -> None:
    """Check that a network consists of ordinary modules with float32 values on the CPU.

    Raises:
        InputError: the network has TorchScript parts, or parameters or buffers without values or on
            another device, or parameters of another floating-point type.
    """
    prefix = network.inner_prefix

    def first_names(names: list[str]) -> str:
        return _first_names([name.removeprefix(prefix) for name in names])

    scripted = [
        name for name, part in network.named_modules() if isinstance(part, torch.jit.ScriptModule)
    ]
    if scripted:
        raise InputError(
            f"has the TorchScript part {scripted[0].removeprefix(prefix)}, which can't be cut; use the "
            "module it was made from"
        )
    tensors = tensors_of(network)
    if meta := [name for name, tensor in tensors.items() if tensor.is_meta]:
        raise InputError(
            f"has no values in {first_names(meta)}: they are on the device meta; make the network on the "
            "CPU"
        )
    if moved := [name for name, tensor in tensors.items() if tensor.device.type != "cpu"]:
        raise InputError(
            f"has {first_names(moved)} on {tensors[moved[0]].device}; its factory must return it on the "
            "CPU"
        )
    learned = dict(network.named_parameters())
    others = [n for n, p in learned.items() if p.is_floating_point() and p.dtype != torch.float32]
    if others:
        kind = str(learned[others[0]].dtype).removeprefix("torch.")
        raise InputError(
            f"has {first_names(others)} in {kind}; Stitch Sweep computes in float32, so its factory must "
            "return it in float32: call .float() on it"
        )


@torch.no_grad()
def explain_probabilities(network: Imported, images: Tensor) -> str | None:
    """Return a note for a network whose outputs look like probabilities; None for any other.

    Cross-entropy and the losses with a teacher treat the outputs as logits. Logarithms of probabilities
    are logits, so a log-softmax at the end is correct.

    Args:
        network: the network, in eval mode.
        images: `[B, C, H, W]`, images of the data; noise and strong noise are tested too.
    """
    noise = _noise(network)
    outputs = torch.cat([network(x.clone()) for x in (images, noise, _LOUD * noise)])
    if not 0 <= outputs.min() <= outputs.max() <= 1 or outputs.max() <= 0.5:
        return None
    sums_to_one = (outputs.sum(dim=1) - 1).abs().max() < _SUM_TOLERANCE
    sums, function = ("sum to 1", "softmax") if sums_to_one else ("don't sum to 1", "sigmoid")
    return (
        f"every output lies between 0 and 1, and they {sums} for each image, as after a {function}; "
        f"losses treat the outputs as logits, so remove the {function}"
    )


def _noise(network: Imported) -> Tensor:
    """Return a few images of standard normal noise; the images are always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_IMAGES, *network.image_shape, generator=generator)


def _run(network: Imported, images: Tensor) -> tuple[Any, list[tuple[str, Any]]]:
    """Return the output, and a copy of every submodule's output, in the order in which submodules end."""
    outputs: list[tuple[str, Any]] = []

    def record(path: str, module: nn.Module, output: Any) -> None:
        name = f"{path.removeprefix(network.inner_prefix)} ({type(module).__name__})"
        outputs.append((name, output.clone() if isinstance(output, Tensor) else None))

    hooks = [
        module.register_forward_hook(lambda m, _, output, path=path: record(path, m, output))
        for path, module in network.named_modules()
        if path and path + "." != network.inner_prefix
    ]
    try:
        output = network(images.clone())
    except Exception as error:  # a user's network may raise anything
        shape = list(network.image_shape)
        preprocessing = network.expected_image
        repeated = (
            f"; grayscale images are repeated to {preprocessing.grey_to} channels, the number that "
            "normalisation has or that its library's networks take"
            if preprocessing is not None and preprocessing.grey_to is not None
            else ""
        )
        raise InputError(
            f"can't take images of shape {shape}: {describe_error(error)}; set image_size: to the size "
            f"that it expects{repeated}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return output, [*outputs, ("the code after its last submodule", output)]


def _hashes(network: Imported) -> dict[str, str]:
    """Return the hash of every parameter and buffer, by the network's own names."""
    return {
        name.removeprefix(network.inner_prefix): digest({name: tensor})
        for name, tensor in tensors_of(network).items()
    }


def _check_output(output: Any) -> None:
    if not isinstance(output, Tensor) or output.ndim != 2 or not output.is_floating_point():
        raise InputError(
            f"returns {_describe(output)}, but logits [B, K] are required; wrap it in a module that "
            "returns these"
        )
    if output.dtype != torch.float32:
        raise InputError(
            f"returns logits in {str(output.dtype).removeprefix('torch.')}, but float32 is required: "
            "call .float() on them at the end of its forward"
        )
    if not output.isfinite().all():
        raise InputError("its logits for noise contain NaN or infinite values")


def _check_equal(first: list[tuple[str, Any]], second: list[tuple[str, Any]]) -> None:
    for (name, before), (_, after) in zip(first, second, strict=False):
        if isinstance(before, Tensor) and not torch.equal(before, after):
            raise InputError(
                f"is random in eval mode too: two runs on the same images differ from {name} on; a "
                "frozen network must be deterministic (dropout must be off in eval mode)"
            )


def _first_names(names: list[str]) -> str:
    """Return the first three names."""
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    return f"a {type(value).__name__}"
