"""Find the blocks of a network. Each block is one layer of stitching.

A *block* is an outermost module that can't be cut inside because several tensors cross (a residual block,
an Inception module), and whose type contains no other such block. Outside of blocks, every convolution or
linear layer is a layer of stitching, together with the normalization, activation and dropout that follow
it. So is every module with weights that is a single value of the graph (a recurrent or transformer layer
of torch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

_FOLLOWING_FUNCTIONS = {
    *("relu", "relu6", "leaky_relu", "prelu", "elu", "gelu", "silu", "hardswish", "hardtanh"),
    *("tanh", "sigmoid", "hardsigmoid", "mish", "softplus"),
    *("dropout", "batch_norm", "layer_norm"),
}
_FOLLOWING_MODULES = (
    *("torch.nn.modules.activation", "torch.nn.modules.batchnorm", "torch.nn.modules.dropout"),
    *("torch.nn.modules.instancenorm", "torch.nn.modules.normalization"),
)


@dataclass(frozen=True)
class NetworkValue:
    """One value of a network, in order of computation.

    Attributes:
        name: its name as a cut point.
        kind: the function's name, for a value that no module computes.
        is_cut: whether the network can be cut there.
        around: paths of the modules in whose `forward` it is computed, outermost first.
        ends: paths of the modules whose output it is.
    """

    name: str
    kind: str
    is_cut: bool
    around: tuple[str, ...]
    ends: tuple[str, ...]


def one_per_block(values: Sequence[NetworkValue], modules: dict[str, nn.Module]) -> list[str]:
    """Return the names of cut points, one for each block; see the module's docstring.

    Args:
        values: all values except the image and the network's output.
        modules: the network's modules by path.
    """
    crossed_modules = _crossed_modules(values, modules)
    innermost = {
        path
        for path in crossed_modules
        if not any(other.startswith(f"{path}.") for other in crossed_modules)
    }
    types = {type(modules[path]) for path in innermost}
    candidates = {path for path in _cuttable_modules(values) if type(modules[path]) in types}
    blocks = {
        path for path in candidates if not any(path.startswith(f"{other}.") for other in candidates)
    }
    count = _count_values(values)
    names: list[str] = []
    open_group = False  # whether the next value may belong to the last convolution
    returned_tuple = False  # whether the next value may be the tensor in the last module's tuple
    for value in values:
        block = next((path for path in value.around if path in blocks), None)
        if block is not None:
            open_group = False
            if block in value.ends and value.is_cut:
                names.append(value.name)
            continue
        closest = value.around[-1] if value.around else ""
        module = modules.get(closest)
        opaque = closest in value.ends and count.get(closest) == 1
        is_leaf = module is not None and (opaque or not list(module.children()))
        has_weights = is_leaf and any(p.ndim >= 2 for p in module.parameters())  # type: ignore[union-attr]
        from_tuple = returned_tuple and value.kind == "getitem"
        returned_tuple = (has_weights or from_tuple) and not value.is_cut
        if not value.is_cut:
            open_group = False
        elif has_weights or from_tuple:
            names.append(value.name)
            open_group = True
        elif open_group and _follows_convolution(value, module if is_leaf else None):
            names[-1] = value.name
        else:
            open_group = False
    return names


def _follows_convolution(value: NetworkValue, module: nn.Module | None) -> bool:
    """Return whether a value is only a normalization, activation or dropout of a convolution's output."""
    if module is not None:
        return any(base.__module__ in _FOLLOWING_MODULES for base in type(module).__mro__)
    return value.kind.rstrip("_") in _FOLLOWING_FUNCTIONS


def _cuttable_modules(values: Sequence[NetworkValue]) -> list[str]:
    """Return the modules whose output is a cut point and that compute several values."""
    count = _count_values(values)
    return [
        path for value in values if value.is_cut for path in value.ends if count.get(path, 0) > 1
    ]


def _count_values(values: Sequence[NetworkValue]) -> dict[str, int]:
    """Count the values that are computed in each module."""
    count: dict[str, int] = {}
    for value in values:
        for path in value.around:
            count[path] = count.get(path, 0) + 1
    return count


def _crossed_modules(values: Sequence[NetworkValue], modules: dict[str, nn.Module]) -> list[str]:
    """Return the cuttable modules that contain a value that is not a cut point, without containers."""
    crossed = {path for value in values if not value.is_cut for path in value.around}
    return [
        path
        for path in _cuttable_modules(values)
        if path in crossed and type(modules[path]) is not nn.Sequential
    ]
