"""Trace a network with torch.fx, in eval mode, in-place operations included."""

from __future__ import annotations

import inspect
import operator
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from stitch_sweep.networks.cutting.effects import has_effect, write_in_place
from stitch_sweep.networks.cutting.modules import (
    find_attribute,
    inner_prefix,
    is_plain_encoder,
    network_type_name,
    run_encoder,
)
from stitch_sweep.networks.cutting.points import CutError
from stitch_sweep.networks.cutting.running import eval_mode

_tracing = threading.Lock()


@dataclass(frozen=True)
class Trace:
    """The result of tracing a network.

    Attributes:
        nodes: the image, the nodes that the output needs or that have an effect, and the output, in order
            of computation.
        objects: modules, parameters and buffers that the nodes name, by path.
        outputs: for each node, paths of the modules whose output it is.
    """

    nodes: list[fx.Node]
    objects: dict[str, Any]
    outputs: dict[fx.Node, list[str]]


class _Proxy(fx.Proxy):
    """A proxy that records `+=` and `x[i] = y` as in-place writes.

    Plain torch.fx records `y += 1` as `y + 1`, which differs wherever the tensor has a second name,
    and refuses item assignment.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


def _recorder(operation: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def record(self: fx.Proxy, value: Any) -> fx.Proxy:
        arguments = (operation, self, value)
        return self.tracer.create_proxy(
            "call_function", write_in_place, arguments, {}, name=operation.removeprefix("i")
        )

    return record


for _operation in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior"):
    setattr(_Proxy, f"__{_operation}__", _recorder(_operation))


class Tracer(fx.Tracer):
    """A tracer that records the module of each output, and the place where tracing failed.

    Args:
        inner: prefix that a wrapper adds to the names of the network inside.
    """

    proxy_buffer_attributes = True  # a buffer that `forward` reads remains that buffer

    def __init__(self, inner: str = "") -> None:
        super().__init__()
        self.outputs: dict[fx.Node, list[str]] = {}
        self.failed_in = ""
        self._opened: nn.Module | None = None  # a module of torch whose operations are traced
        self._inner = inner

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module becomes one node, and not the operations inside it."""
        if m is self._opened:
            return False
        return getattr(m, "traced_as_one", False) or super().is_leaf_module(
            m, module_qualified_name
        )

    def path_of_module(self, mod: nn.Module) -> str:
        """Return a module's path without the wrapper's prefix."""
        path = super().path_of_module(mod)
        return "" if path + "." == self._inner else path.removeprefix(self._inner)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a node to the graph; attributes lose the wrapper's prefix."""
        if kind == "get_attr":
            target = target.removeprefix(self._inner)
        return super().create_node(kind, target, *args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Make a proxy that records in-place writes."""
        return _Proxy(node, self)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace a module's call, and record whose output the result is."""
        path = self.path_of_module(m)
        alone = len(args) == 1 and all(value is None or value is False for value in kwargs.values())
        if alone and isinstance(m, nn.TransformerEncoder) and is_plain_encoder(m):
            self._opened, forward = m, partial(run_encoder, m)
            kwargs = {}
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or (f"{path} ({type(m).__name__})" if path else "")
            raise
        if isinstance(result, fx.Proxy) and path:
            self.outputs.setdefault(result.node, []).append(path)
        return result


def trace_network(model: nn.Module) -> Trace:
    """Trace `model` as a function of its first argument, and leave it unchanged.

    torch.fx patches `nn.Module` during the milliseconds of tracing, so no other thread of the process
    should run a model at the same time.

    Raises:
        CutError: the model needs more than an image, or torch.fx can't trace its `forward`.
    """
    defaults = _defaults(model)
    tracer = Tracer(inner_prefix(model))
    with _tracing, eval_mode(model):
        # `forward` may store proxies on modules, and torch.fx stores constants on the model: remove both.
        attributes = [(module, dict(module.__dict__)) for module in model.modules()]
        try:
            graph = tracer.trace(model, concrete_args=defaults or None)
            objects = {
                str(node.target): find_attribute(model, str(node.target))
                for node in graph.nodes
                if node.op in ("call_module", "get_attr")
            }
        except Exception as error:
            refusal = CutError(_explain_failure(model, tracer, error))
            refusal.untraceable = True
            raise refusal from error
        finally:
            for module, before in attributes:
                module.__dict__.clear()
                module.__dict__.update(before)
    nodes = _live_nodes(graph, objects)
    extra = [str(node.target) for node in nodes[1:] if node.op == "placeholder"]
    if extra:
        raise CutError(
            f"{type(model).__name__}.forward uses more than the image: {', '.join(extra)}"
        )
    return Trace(nodes, objects, tracer.outputs)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Return the default of every parameter of `forward` after the image."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    name = type(model).__name__
    if not parameters or parameters[0].kind in variadic:
        raise CutError(f"{name}.forward has no parameter for the image, so it can't be cut")
    rest = [parameter for parameter in parameters[1:] if parameter.kind not in variadic]
    needed = [parameter.name for parameter in rest if parameter.default is parameter.empty]
    if needed:
        raise CutError(
            f"{name}.forward needs more than the image: {', '.join(needed)}; wrap it in a module "
            "that takes one tensor"
        )
    return {parameter.name: parameter.default for parameter in rest}


def _explain_failure(model: nn.Module, tracer: Tracer, error: Exception) -> str:
    """Explain why tracing failed: the error, the module and the line of the model's code."""
    internal = (Path(torch.__file__).parent.as_posix(), Path(__file__).parent.as_posix())
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(internal) and Path(frame.filename).exists()
    ]
    line = f", at {frames[-1].filename}:{frames[-1].lineno}: `{frames[-1].line}`" if frames else ""
    module = f" in {tracer.failed_in}" if tracer.failed_in else ""
    reason = str(error).strip().partition("\n")[0]
    return (
        f"torch.fx can't trace {network_type_name(model)}: {type(error).__name__}{module}{line}: "
        f"{reason}. A `forward` that branches or loops on the values of tensors can't be cut"
    )


def _live_nodes(graph: fx.Graph, objects: dict[str, Any]) -> list[fx.Node]:
    """Return the nodes of `Trace.nodes`.

    Parameters with defaults, and fx's checks of these defaults, are excluded.
    """
    nodes = list(graph.nodes)
    image = nodes[0]
    fixed: set[fx.Node] = set()
    for node in nodes[1:]:
        if node.op == "placeholder" or (
            node.all_input_nodes and fixed.issuperset(node.all_input_nodes)
        ):
            fixed.add(node)
    live = {image}
    for node in reversed(nodes):
        if node.op == "output" or node in live or has_effect(node, objects):
            live.update([node, *node.all_input_nodes] if node not in fixed else [])
    return [node for node in nodes if node in live]
