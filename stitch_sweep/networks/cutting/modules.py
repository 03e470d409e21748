"""Modules of a network by their names, and the wrapper around an external network."""

from __future__ import annotations

import operator
from typing import Any

from torch import nn


def inner_prefix(model: nn.Module) -> str:
    """Return the prefix that a wrapper adds to the names of the network inside; empty if none."""
    # Read the prefix from the class, because a network may have a part of that name.
    prefix = getattr(type(model), "inner_prefix", "")
    return prefix if isinstance(prefix, str) else ""


def find_attribute(model: nn.Module, path: str) -> Any:
    """Return the module, parameter or buffer at a traced path, first searched in a wrapped network.

    Raises:
        AttributeError: the model has no such attribute.
    """
    try:
        return operator.attrgetter(inner_prefix(model) + path)(model)
    except AttributeError:
        return operator.attrgetter(path)(model)


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a path, first searched in a wrapped network; None if it doesn't exist."""
    try:
        module = find_attribute(model, path)
    except AttributeError:
        return None
    return module if isinstance(module, nn.Module) else None


def required_submodule(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a path that must exist."""
    module = submodule(model, path)
    assert module is not None, path
    return module


def network_type_name(model: nn.Module) -> str:
    """Return the name of the network's type, without a wrapper around it."""
    return type(model.get_submodule(inner_prefix(model).removesuffix("."))).__name__


def is_row(module: nn.Module) -> bool:
    """Return whether a module only runs other modules, one after the other."""
    return type(module) is nn.Sequential or is_plain_encoder(module)


def is_plain_encoder(module: nn.Module) -> bool:
    """Return whether a module is torch's `TransformerEncoder` with torch's `forward`."""
    return isinstance(module, nn.TransformerEncoder) and (
        type(module).forward is nn.TransformerEncoder.forward
    )


def run_encoder(encoder: nn.TransformerEncoder, value: Any) -> Any:
    """Run a `TransformerEncoder` without masks and without the branches that torch.fx can't trace."""
    for layer in encoder.layers:
        value = layer(value, src_mask=None, is_causal=False, src_key_padding_mask=None)
    return value if encoder.norm is None else encoder.norm(value)
