"""Cut points and layers: their records, their order, and the error that refuses a cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from stitch_sweep.core.errors import InputError

Location = int | str | None
"""A layer index, a cut point's name, -1 for the image, or None for the network's own end."""
LayerNames = Sequence[str] | Literal["auto"] | None
"""Names of cut points, `auto` for one layer per block, or None for the model's own layers."""


class CutError(InputError):
    """The network can't be cut as requested; the message gives the reason and possible cuts.

    Attributes:
        untraceable: whether torch.fx could not trace the network at all.
    """

    untraceable = False


@dataclass(frozen=True)
class CutPoint:
    """A place where one tensor joins the two halves of a network.

    Attributes:
        name: dotted path of the module whose output the tensor is. If a block and its last activation
            return the same tensor, the name is the block's path. If no module returns the tensor, it is
            the name of the torch.fx node.
        kind: type of that module, or the function's name.
        aliases: further names of the same place; `"%" + node name` is always one of them.
    """

    name: str
    kind: str
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-adds before and after a cut point.

    Multiply-adds are those of convolutions and matrix products, for one image.

    Attributes:
        shape: shape of the tensor at the cut, without the batch; (C, H, W) for maps.
        params_before: parameters of the prefix.
        params_after: parameters of the suffix. Parameters that both parts use count in both parts.
        mult_adds_before: multiply-adds of the prefix.
        mult_adds_after: multiply-adds of the suffix.
    """

    shape: tuple[int, ...]
    params_before: int
    params_after: int
    mult_adds_before: int
    mult_adds_after: int


@dataclass(frozen=True)
class Layer:
    """A cut point that serves as a layer of stitching; index 0 is the first, -1 means the image."""

    index: int
    name: str


def layers_in_order(names: Sequence[str], find: Callable[[str], int]) -> list[Layer]:
    """Make layers from the names of cut points.

    Args:
        names: names of cut points.
        find: returns a cut point's position in the order of computation, and raises `CutError` for a name
            that is not a cut point.

    Raises:
        CutError: some names are not cut points (each with its reason), or the names are not in the order
            of computation.
    """
    positions: list[int] = []
    problems: list[CutError] = []
    for name in names:
        try:
            positions.append(find(str(name)))
        except CutError as error:
            problems.append(error)
    if problems:
        joined = CutError(*(text for error in problems for text in error.problems))
        joined.untraceable = any(error.untraceable for error in problems)
        raise joined
    if positions != sorted(set(positions)):
        raise CutError(f"layers must be named in the order of computation, once each: {names}")
    return [Layer(index, str(name)) for index, name in enumerate(names)]


def explain_missing_layer(model_name: str, index: int, count: int) -> str:
    """Return the message for a layer index outside of 0 to `count` - 1."""
    return (
        f"there is no layer {index}: {model_name} has layers 0 to {count - 1}, and -1 is the image"
    )


def explain_unstitchable(value_for_one: Any, value_for_two: Any, dtype: torch.dtype) -> str:
    """Explain why a stitch can't take a value; return an empty string if it can.

    Args:
        value_for_one: the value for one image.
        value_for_two: the value for two images.
        dtype: number format of the images, in which stitches compute.
    """
    if not isinstance(value_for_one, torch.Tensor):
        return f"it is {describe_type(value_for_one)}, not a single tensor"
    if value_for_one.dtype != dtype:
        actual, required = (
            str(kind).removeprefix("torch.") for kind in (value_for_one.dtype, dtype)
        )
        return f"it is a tensor of {actual}, and stitches compute in {required}"
    shapes = [tuple(value_for_one.shape), tuple(value_for_two.shape)]
    if shapes == [(1, *shapes[0][1:]), (2, *shapes[0][1:])]:
        return ""
    return (
        f"its first axis is not the batch: its shape is {list(shapes[0])} for one image and "
        f"{list(shapes[1])} for two, and a stitch takes [B, ...]. If the network moves the batch to a "
        "later axis, cut before it is moved or after it is moved back"
    )


def describe_type(value: Any) -> str:
    """Return a value's type with its article, for messages."""
    return f"a {type(value).__name__}"
