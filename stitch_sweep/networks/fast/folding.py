"""Fold BatchNorm into the layer that it follows, and store convolutions channels last.

In eval mode BatchNorm is y = (x - m) g / sqrt(v + e) + b per channel. After a layer x = W a + c it is one
layer again, with the weights W g / sqrt(v + e) and the bias (c - m) g / sqrt(v + e) + b. The new weights
are computed in float64 and rounded once. A BatchNorm before a convolution (DenseNet) stays: with padding
at the edges no single convolution equals both, and a ReLU mostly lies between.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from stitch_sweep.networks.cutting.modules import find_attribute
from stitch_sweep.networks.cutting.tracer import Tracer

# Exact types: a subclass, or a module with parametrized weights, may compute something else.
_LAYERS = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}


class FoldedModules:
    """The modules that the fast parts of one network have instead of the network's own.

    All parts share them, so there is at most one folded and one plain copy of a convolution, whatever the
    number of parts. Modules that need no change are not copied.
    """

    def __init__(self) -> None:
        self._copies: dict[tuple[nn.Module, nn.Module | None], nn.Module] = {}

    def folded(self, layer: nn.Module, norm: nn.Module) -> nn.Module:
        """Return a copy of a convolution or linear layer that includes the BatchNorm after it."""
        if (layer, norm) not in self._copies:
            self._copies[layer, norm] = fold_batch_norm(layer, norm)
        return self._copies[layer, norm]

    def channels_last(self, convolution: nn.Module) -> nn.Module:
        """Return a copy of a convolution whose weights are stored channels last."""
        if (convolution, None) not in self._copies:
            self._copies[convolution, None] = _channels_last(copy.deepcopy(convolution))
        return self._copies[convolution, None]

    def __iter__(self) -> Iterator[nn.Module]:
        """Iterate over the copies, in the order in which they were made."""
        return iter(self._copies.values())


def fold_batch_norm(layer: Any, norm: Any) -> nn.Module:
    """Return a new layer that computes a convolution or linear layer with a BatchNorm after it.

    Args:
        layer: a `Conv1d`, `Conv2d`, `Conv3d` or `Linear`; it stays unchanged.
        norm: the BatchNorm of its output channels, in eval mode, with running statistics.
    """
    mean, variance = _float64(norm.running_mean), _float64(norm.running_var)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _float64(norm.weight)
    offset = torch.zeros_like(mean) if norm.bias is None else _float64(norm.bias)
    bias = torch.zeros_like(mean) if layer.bias is None else _float64(layer.bias)
    weight = _float64(layer.weight)
    folded: nn.Module = copy.deepcopy(layer)
    folded.weight = _frozen(weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), like=layer.weight)
    folded.bias = _frozen((bias - mean) * scale + offset, like=layer.weight)
    return _channels_last(folded)


def fold_part(part: fx.GraphModule, modules: FoldedModules) -> fx.GraphModule:
    """Build a part of a network with every foldable BatchNorm folded and all convolutions channels last.

    Args:
        part: a part of a traced network, in eval mode; it stays unchanged, and so do its modules.
        modules: the copies of modules that the network's parts share.

    Returns:
        A part with the same inputs and outputs. It is equal up to the rounding of float32.
    """
    graph = fx.Graph(tracer_cls=Tracer)
    objects = {
        str(node.target): find_attribute(part, str(node.target))
        for node in part.graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    copies: dict[fx.Node, fx.Node] = {}
    for node in part.graph.nodes:
        if (layer := _layer_before(node, objects)) is not None:
            target = f"{layer.target}_folded_{node.name}"
            objects[target] = modules.folded(objects[str(layer.target)], objects[str(node.target)])
            copies[node] = copies[layer]
            copies[node].target = target
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node.op == "call_method" and node.target == "view" and _is_shape(node.args[1:]):
            # A view of a map that is stored channels last may need a copy.
            copies[node].target = "reshape"
    for node in graph.nodes:
        if node.op == "call_module" and type(objects[str(node.target)]) is nn.Conv2d:
            module = objects[str(node.target)]
            if not module.weight.is_contiguous(memory_format=torch.channels_last):
                objects[str(node.target)] = modules.channels_last(module)
    used = {
        str(node.target): objects[str(node.target)]
        for node in graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    folded = fx.GraphModule(used, graph, class_name=f"Folded{type(part).__name__}")
    for module in folded.modules():
        if module is folded or type(module) is nn.Module:  # the containers that torch.fx adds
            module.training = False
    return folded


def _layer_before(node: fx.Node, objects: dict[str, Any]) -> fx.Node | None:
    """Return the layer into which a node's BatchNorm can be folded; None if there is none."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    norm, before = objects[str(node.target)], node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
        return None
    layer = objects[str(before.target)]
    if type(norm) is not _LAYERS.get(type(layer)) or norm.training or norm.running_var is None:
        return None
    if any(module._forward_hooks or module._forward_pre_hooks for module in (layer, norm)):
        return None  # a hook may change what the module computes
    # A BatchNorm1d after a linear layer normalizes the tokens of [B, T, D] and the features of [B, D].
    # The sizes tell the two apart unless T = D; the comparison with the network finds that case.
    return before if norm.num_features == len(layer.weight) else None


def _channels_last(layer: nn.Module) -> nn.Module:
    if type(layer) is nn.Conv2d:
        weight = layer.weight.detach().clone(memory_format=torch.channels_last)
        layer.weight = _frozen(weight, like=weight)
    return layer


def _float64(tensor: Tensor) -> Tensor:
    return tensor.detach().double()


def _frozen(tensor: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.to(like), requires_grad=False)


def _is_shape(arguments: tuple[object, ...]) -> bool:
    """Return whether the arguments of `view` are a shape, and not another number format."""
    return not any(isinstance(argument, torch.dtype) for argument in arguments)
