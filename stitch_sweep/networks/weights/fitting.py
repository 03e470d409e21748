"""Load external weights into a configured network, with a check of every tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stitch_sweep.config.networks import EXTERNAL_KINDS, NetworkConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.foreign_errors import describe_error
from stitch_sweep.data.images import Data
from stitch_sweep.networks import construction
from stitch_sweep.networks.external.preprocessing import Imported
from stitch_sweep.networks.weights.reading import explain_no_state_dict, read_mapping

_COMPILED = "_orig_mod."  # torch.compile adds it to the names of a state dict
_MOST_PROBLEMS = 5


def load_pretrained(network: NetworkConfig, data: Data) -> nn.Module:
    """Make a configured network with external weights (its `kind` is in `EXTERNAL_KINDS`).

    Raises:
        InputError: see `load_from_file` and `construction.load`.
    """
    assert network.kind in EXTERNAL_KINDS
    return (
        load_from_file(network, data)
        if network.kind == "file"
        else construction.load(network, data)
    )


def load_from_file(network: NetworkConfig, data: Data) -> nn.Module:
    """Make a configured network with weights from its file, and check every name, shape and value.

    Raises:
        InputError: the file contains no weights, or weights of another network; the message lists the
            differences.
    """
    path = network.weights_file
    assert path is not None
    module = construction.build(network, data)
    # A file for an external network has the names of the network's author, without the wrapper's prefix.
    inner = module.network if isinstance(module, Imported) else module
    state, mapping_keys = read_mapping(path, network.weights_key)
    if (prefix := network.weights_prefix) is not None:
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if prefix is None and not any(isinstance(value, Tensor) for value in state.values()):
        raise InputError(explain_no_state_dict(path, mapping_keys))
    state = {name.replace(_COMPILED, ""): value for name, value in state.items()}
    targets = inner.state_dict(keep_vars=True)
    refused = dict(_refused_values(inner, state, targets))
    try:
        # Torch determines which names may be missing, and converts the names of older versions.
        result = inner.load_state_dict(
            {name: value for name, value in state.items() if name not in refused}, strict=False
        )
    except Exception as error:  # a network may define how it is loaded
        raise InputError(
            f"network {network.name!r}: {path} doesn't fit: {describe_error(error)}"
        ) from error
    missing = set(result.missing_keys) - refused.keys() - _tied_names(targets, state)
    problems = [f"lacks {name}" for name in targets if name in missing]
    problems += [f"has an unknown {name}" for name in result.unexpected_keys]
    problems += [f"{name} {reason}" for name, reason in refused.items()]
    if problems:
        count = len(problems) - _MOST_PROBLEMS
        more = f", and {count} more" if count > 0 else ""
        more += _prefix_hint(state, set(targets), missing)
        listed = "; ".join(problems[:_MOST_PROBLEMS])
        raise InputError(f"network {network.name!r}: {path} doesn't fit: {listed}{more}")
    return module.eval()


def _refused_values(
    network: nn.Module, state: Mapping[str, Any], targets: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the names of the network whose values in a file can't be loaded, each with the reason.

    A file's floating-point numbers may have any width. Torch converts them: exactly from 16 bits, rounded
    from 64 bits.
    """
    learned = dict(network.named_parameters(remove_duplicate=False))
    first_names: dict[int, str] = {}
    for name, target in targets.items():
        if name not in state or not isinstance(target, Tensor):
            continue  # the extra state of a module may be anything
        value = state[name]
        if (reason := _explain_refusal(value, target)) is not None:
            yield name, reason
            continue
        converted = value.to(target.dtype)
        # A buffer may contain infinite values, such as a mask; a parameter may not.
        if converted.isnan().any() or (name in learned and not converted.isfinite().all()):
            yield name, "contains NaN or infinite values"
        first = first_names.setdefault(id(target), name)
        if first != name and not torch.equal(state[first].to(target.dtype), converted):
            yield name, f"differs from {first}, but in the network both are the same tensor"


def _explain_refusal(value: Any, target: Tensor) -> str | None:
    """Explain why a file's value can't be copied into a tensor of a network; None if it can."""
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, but a tensor is required"
    if type(value) not in (Tensor, nn.Parameter):
        return f"is a {type(value).__name__}, but an ordinary tensor is required"
    kinds = {
        "quantized": value.is_quantized,
        "on the device meta, without values": value.is_meta,
        "sparse": value.layout != torch.strided,
    }
    if special := [kind for kind, applies in kinds.items() if applies]:
        return f"is {special[0]}, but an ordinary tensor is required"
    if value.shape != target.shape:
        return f"is {list(value.shape)}, not {list(target.shape)}"
    actual, required = (str(tensor.dtype).removeprefix("torch.") for tensor in (value, target))
    if target.is_floating_point() and not value.is_floating_point():
        return f"is {actual}, but {required} is required"
    if not (target.is_floating_point() or target.is_complex()) and (
        value.is_complex() or not torch.equal(value.to(target.dtype).to(value.dtype), value)
    ):
        return f"is {actual} with values that {required} can't represent"
    return None


def _tied_names(targets: Mapping[str, Any], state: Mapping[str, Any]) -> set[str]:
    """Return the names whose tensor is in the file under another name: safetensors stores it once."""

    def memory(tensor: Tensor) -> tuple[Any, ...]:
        return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())

    tensors = {k: v for k, v in targets.items() if isinstance(v, Tensor) and v.numel()}
    present = {memory(tensor) for name, tensor in tensors.items() if name in state}
    return {name for name, tensor in tensors.items() if memory(tensor) in present}


def _prefix_hint(state: Mapping[str, Any], names: set[str], missing: set[str]) -> str:
    """Suggest a `weights_prefix` if all missing names are in the file behind a common prefix."""
    behind: dict[str, set[str]] = {}
    for name in state:
        for k in (k + 1 for k, character in enumerate(name) if character == "."):
            if name[k:] in names:
                behind.setdefault(name[:k], set()).add(name[k:])
    fitting = [prefix for prefix, stripped in behind.items() if missing and missing <= stripped]
    if not fitting:
        return ""
    if all(name.startswith(fitting[0]) for name in state):
        return f"; all its names begin with {fitting[0]!r}: set weights_prefix: {fitting[0]}"
    return f"; the file has the missing names with a prefix: set weights_prefix: {' or '.join(fitting)}"
