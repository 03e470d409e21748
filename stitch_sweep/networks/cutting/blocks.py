"""Which places of a network are its blocks: one layer of stitching for each.

A *block* is an outermost module inside which several tensors cross (a residual block, an Inception
module), of a type that has no such block in it. Outside of blocks, every convolution or linear layer is
one, together with the normalisation, activation and dropout that follow it, and so is every module with
weights that is computed as one value (a recurrent or a transformer layer of torch's own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

_BELONG = {
    *(
        "relu",
        "relu6",
        "leaky_relu",
        "prelu",
        "elu",
        "gelu",
        "silu",
        "hardswish",
        "hardtanh",
        "tanh",
    ),
    *("sigmoid", "hardsigmoid", "mish", "softplus", "dropout", "batch_norm", "layer_norm"),
}
_BELONG_MODULES = (
    *("torch.nn.modules.activation", "torch.nn.modules.batchnorm", "torch.nn.modules.dropout"),
    *("torch.nn.modules.instancenorm", "torch.nn.modules.normalization"),
)


@dataclass(frozen=True)
class Place:
    """One value of a network, in order of computation.

    Attributes:
        name: what it is called as a cut point.
        kind: the function's name where no module computes it.
        cut: whether the network can be cut there.
        around: paths of the modules in whose `forward` it arose, outermost first.
        ends: paths of the modules whose output it is.
    """

    name: str
    kind: str
    cut: bool
    around: tuple[str, ...]
    ends: tuple[str, ...]


def one_per_block(places: Sequence[Place], modules: dict[str, nn.Module]) -> list[str]:
    """Names of cut points, one for each block; see this module.

    Args:
        places: all values but the image and the network's output.
        modules: the network's modules by path.
    """
    inside = _with_crossing(places, modules)
    innermost = {p for p in inside if not any(o.startswith(f"{p}.") for o in inside)}
    types = {type(modules[path]) for path in innermost}
    crossed = {path for path in _whole(places) if type(modules[path]) in types}
    blocks = {p for p in crossed if not any(p.startswith(f"{o}.") for o in crossed)}
    count = _values_of(places)
    found: list[str] = []
    open_group = False  # whether what follows may still belong to the last convolution
    several = False  # whether what follows may be the tensor among what the last module returned
    for place in places:
        within = next((path for path in place.around if path in blocks), None)
        if within is not None:
            open_group = False
            if within in place.ends and place.cut:
                found.append(place.name)
            continue
        closest = place.around[-1] if place.around else ""
        of = modules.get(closest)
        opaque = closest in place.ends and count.get(closest) == 1
        leaf = of is not None and (opaque or not list(of.children()))
        weighs = leaf and any(p.ndim >= 2 for p in of.parameters())  # type: ignore[union-attr]
        taken = several and place.kind == "getitem"
        several = (weighs or taken) and not place.cut
        if not place.cut:
            open_group = False
        elif weighs or taken:
            found.append(place.name)
            open_group = True
        elif open_group and _belongs(place, of if leaf else None):
            found[-1] = place.name
        else:
            open_group = False
    return found


def _belongs(place: Place, of: nn.Module | None) -> bool:
    """Whether a value only normalises, activates or drops what a convolution made."""
    if of is not None:
        return any(base.__module__ in _BELONG_MODULES for base in type(of).__mro__)
    return place.kind.rstrip("_") in _BELONG


def _whole(places: Sequence[Place]) -> list[str]:
    """Modules whose output is a cut point, and that are made of several values."""
    count = _values_of(places)
    return [path for place in places if place.cut for path in place.ends if count.get(path, 0) > 1]


def _values_of(places: Sequence[Place]) -> dict[str, int]:
    """How many values arise in each module."""
    count: dict[str, int] = {}
    for place in places:
        for path in place.around:
            count[path] = count.get(path, 0) + 1
    return count


def _with_crossing(places: Sequence[Place], modules: dict[str, nn.Module]) -> list[str]:
    """Of those, the ones inside which the network can't be cut everywhere, containers left out."""
    crossed = {path for place in places if not place.cut for path in place.around}
    return [
        path
        for path in _whole(places)
        if path in crossed and type(modules[path]) is not nn.Sequential
    ]
