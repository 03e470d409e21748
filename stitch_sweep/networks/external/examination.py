"""Look a network from elsewhere over before it is stitched."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.cutting.tracing import eval_mode
from stitch_sweep.networks.external.building import what_went_wrong
from stitch_sweep.networks.external.preprocessing import Imported
from stitch_sweep.storage.checkpoints import digest, tensors_of

_IMAGES = 2
_LOUD = 30.0
"""Standard deviation of noise far beyond any normalized image."""
_SUM_TOLERANCE = 1e-3
"""How far from 1 the sum of an image's probabilities in float32 may be."""


@torch.no_grad()
def examine(network: Imported, *, learns: bool = False) -> int:
    """Run a network twice on the same noise, in eval mode; it is left as it was.

    Args:
        network: with the shape of the images it gets.
        learns: whether it is to be trained here too, or its statistics filled.

    Returns:
        K, the length of its logits.

    Raises:
        InputError: its parts aren't fit (`check_parts`), it can't take the images, its output is no
            [B, K] of finite numbers, two runs differ (the submodule in which they begin to differ is
            named), or it writes into itself.
    """
    check_parts(network)
    images = _noise(network)
    with torch.random.fork_rng(devices=[]):
        with eval_mode(network):
            output, first = _run(network, images)
            _check_output(output)
            before = _hashes(network)  # now, since some modules are complete only after a first run
            _, second = _run(network, images)
        if changed := [name for name, found in _hashes(network).items() if found != before[name]]:
            few = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
            raise InputError(
                f"changes its own {few} in eval mode too, where a frozen network must stay what it is "
                "(as batch_norm with training=True does)"
            )
        _check_equal(first, second)
        if learns:
            trial = copy.deepcopy(network).train()
            made, _ = _run(trial, images)
            if not isinstance(made, Tensor) or made.shape != output.shape:
                raise InputError(
                    f"in training it returns {_shown(made)}, not the logits alone; give arguments that "
                    "turn that off, such as aux_logits: false"
                )
    return int(output.shape[1])


def check_parts(network: Imported) -> None:
    """Check that a network is made of ordinary modules with float32 values on the CPU.

    Raises:
        InputError: it has TorchScript parts, or parameters without values, on another device or of
            another floating-point type.
    """
    prefix = network.inner_prefix

    def few(names: list[str]) -> str:
        return ", ".join(n.removeprefix(prefix) for n in names[:3]) + ", ..." * (len(names) > 3)

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
            f"has no values in {few(meta)}: they are on the device meta; make the network on the CPU"
        )
    if moved := [name for name, tensor in tensors.items() if tensor.device.type != "cpu"]:
        raise InputError(
            f"has {few(moved)} on {tensors[moved[0]].device}; its factory must return it on the CPU"
        )
    learned = dict(network.named_parameters())
    others = [n for n, p in learned.items() if p.is_floating_point() and p.dtype != torch.float32]
    if others:
        kind = str(learned[others[0]].dtype).removeprefix("torch.")
        raise InputError(
            f"has {few(others)} in {kind}; Stitch Sweep computes in float32, so its factory must return "
            "it in float32: call .float() on it"
        )


@torch.no_grad()
def output_note(network: Imported, images: Tensor) -> str | None:
    """What to tell a user whose network seems to give probabilities; None where it doesn't.

    Cross-entropy and the losses with a teacher take the outputs for logits. Logarithms of probabilities
    are logits, so a log-softmax at the end is no mistake.

    Args:
        network: in eval mode.
        images: `[B, C, H, W]`, some of the data's; noise and strong noise are tried too.
    """
    noise = _noise(network)
    found = torch.cat([network(x.clone()) for x in (images, noise, _LOUD * noise)])
    if not 0 <= found.min() <= found.max() <= 1 or found.max() <= 0.5:
        return None
    sums = (found.sum(dim=1) - 1).abs().max() < _SUM_TOLERANCE
    what, remedy = ("sum to 1", "softmax") if sums else ("don't sum to 1", "sigmoid")
    return (
        f"every output lies between 0 and 1, and they {what} for each image, as after a {remedy}; losses "
        f"take the outputs for logits, so leave the {remedy} out"
    )


def _noise(network: Imported) -> Tensor:
    """A few images of standard normal noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_IMAGES, *network.image_shape, generator=generator)


def _run(network: Imported, images: Tensor) -> tuple[Any, list[tuple[str, Any]]]:
    """The output, and copies of what every submodule returned, in the order in which they ended."""
    found: list[tuple[str, Any]] = []

    def record(path: str, module: nn.Module, output: Any) -> None:
        name = f"{path.removeprefix(network.inner_prefix)} ({type(module).__name__})"
        found.append((name, output.clone() if isinstance(output, Tensor) else None))

    hooks = [
        module.register_forward_hook(lambda m, _, output, path=path: record(path, m, output))
        for path, module in network.named_modules()
        if path and path + "." != network.inner_prefix
    ]
    try:
        output = network(images.clone())
    except Exception as error:  # it is anybody's code
        shape = list(network.image_shape)
        before = network.expected_image
        repeated = (
            f"; grey images are repeated to {before.grey_to} channels, as many as normalisation has "
            "numbers or as its library's networks take"
            if before is not None and before.grey_to is not None
            else ""
        )
        raise InputError(
            f"can't take images of shape {shape}: {what_went_wrong(error)}; image_size: says what it "
            f"expects{repeated}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return output, [*found, ("what follows its last submodule", output)]


def _hashes(network: Imported) -> dict[str, str]:
    """Of every parameter and buffer, by the network's own names."""
    return {
        name.removeprefix(network.inner_prefix): digest({name: tensor})
        for name, tensor in tensors_of(network).items()
    }


def _check_output(output: Any) -> None:
    if not isinstance(output, Tensor) or output.ndim != 2 or not output.is_floating_point():
        raise InputError(
            f"returns {_shown(output)}, where logits [B, K] are wanted; wrap it in a module that "
            "returns these"
        )
    if output.dtype != torch.float32:
        raise InputError(
            f"returns logits in {str(output.dtype).removeprefix('torch.')}, where float32 is wanted: "
            "call .float() on them at the end of its forward"
        )
    if not output.isfinite().all():
        raise InputError("its logits for noise are not finite")


def _check_equal(first: list[tuple[str, Any]], second: list[tuple[str, Any]]) -> None:
    for (name, before), (_, after) in zip(first, second, strict=False):
        if isinstance(before, Tensor) and not torch.equal(before, after):
            raise InputError(
                f"is random in eval mode too: two runs on the same images differ from {name} on; a "
                "frozen network must give the same twice (dropout has to heed eval mode)"
            )


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    return f"a {type(value).__name__}"
