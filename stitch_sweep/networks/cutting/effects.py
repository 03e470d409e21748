"""Effects of the nodes of a traced network: in-place writes, shared memory and random draws."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

# Modules and functions whose result never shares memory with an argument. All others may share memory.
_MODULES_WITH_OWN_MEMORY = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.Linear,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
)
_FUNCTIONS_WITH_OWN_MEMORY = {
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.matmul,
    torch.add,
    torch.mul,
    torch.matmul,
    torch.cat,
    torch.clone,
    torch.relu,
    functional.relu,
    functional.linear,
    functional.conv2d,
    functional.batch_norm,
    functional.layer_norm,
}


def write_in_place(operation: str, target: Any, value: Any) -> Any:
    """Compute `target += value` and similar operations; the function of a node of a graph."""
    return getattr(operator, operation)(target, value)


def written_values(node: fx.Node, objects: dict[str, Any]) -> list[fx.Node]:
    """Return the values that an operation writes into; empty unless it works in place.

    Args:
        node: the operation.
        objects: the traced network's modules, parameters and buffers by path.
    """
    target = node.target
    if node.op == "call_module":
        in_place = getattr(objects[str(target)], "inplace", False) is True
    elif node.op == "call_method":
        in_place = str(target).endswith("_") and not str(target).endswith("__")
    elif node.op == "call_function":
        if node.kwargs.get("out") is not None:
            outputs: list[fx.Node] = []
            fx.map_arg(node.kwargs["out"], outputs.append)
            return outputs
        if isinstance(target, torch._ops.OpOverload):
            return node.all_input_nodes if target._schema.is_mutable else []
        name = getattr(target, "__name__", "")
        in_place = (
            target in (write_in_place, operator.setitem)
            or (name.endswith("_") and not name.endswith("__"))
            or bool(_argument(node, "inplace"))
        )
    else:
        in_place = False
    return node.all_input_nodes[:1] if in_place else []


def has_effect(node: fx.Node, objects: dict[str, Any]) -> bool:
    """Return whether a node has an effect besides its value: a write, a random draw, a check."""
    if node.op == "call_module":
        module = objects[str(node.target)]
        return bool(written_values(node, objects)) or getattr(module, "_is_impure", False)
    if node.op == "call_function" and node.is_impure():
        return True
    return bool(written_values(node, objects))


def has_own_memory(node: fx.Node, objects: dict[str, Any]) -> bool:
    """Return whether it is certain that a node's value shares no memory with its inputs."""
    if node.op == "call_module":
        return isinstance(objects[str(node.target)], _MODULES_WITH_OWN_MEMORY)
    if node.op == "call_function":
        return node.target in _FUNCTIONS_WITH_OWN_MEMORY
    return node.op == "call_method" and node.target == "clone"


def may_write_into(start: fx.Node, nodes: Sequence[fx.Node], objects: dict[str, Any]) -> bool:
    """Return whether an in-place operation among `nodes` may write into the memory of `start`."""
    shared = {start}
    for node in nodes:
        written = written_values(node, objects)
        if any(value in shared for value in written):
            return True
        if not written and not has_own_memory(node, objects):
            shared.update([node] if shared.intersection(node.all_input_nodes) else [])
    return False


def _argument(node: fx.Node, name: str) -> Any:
    """Return the value that a function's node passes for the parameter `name`, None if it passes none."""
    if name in node.kwargs or not callable(node.target):
        return node.kwargs.get(name)
    try:
        bound = inspect.signature(node.target).bind_partial(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # a built-in without a signature
        return None
    return bound.arguments.get(name)
