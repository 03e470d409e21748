"""Look a network from elsewhere over before it is stitched."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.checkpoints import digest, tensors_of
from stitch_sweep.errors import InputError
from stitch_sweep.sources.building import what_went_wrong
from stitch_sweep.sources.preprocessing import Imported
from stitch_sweep.subgraphs import eval_mode

_IMAGES = 2


@torch.no_grad()
def examine(network: Imported, *, learns: bool = False) -> int:
    """Run a network twice on the same noise, in eval mode; it is left as it was.

    Args:
        network: with the shape of the images it gets.
        learns: whether it is to be trained here too, or its statistics filled.

    Returns:
        K, the length of its logits.

    Raises:
        InputError: it can't take the images, its output is no [B, K] of finite numbers, two runs differ
            (the submodule in which they begin to differ is named), or it writes into itself.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_IMAGES, *network.image_shape, generator=generator)
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
