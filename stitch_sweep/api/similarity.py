"""Similarity of two representations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.losses.measures import MEASURE_INPUTS, compare_representations

_REQUIREMENTS = {
    "shape": "compares values one by one, so x and y must have one shape",
    "positions": "compares channels, so x and y must have equally many images and positions",
}


@overload
def similarity(x: Any, y: Any, measure: str) -> float: ...
@overload
def similarity(x: Any, y: Any, measure: Sequence[str] | None = None) -> dict[str, float]: ...
def similarity(
    x: Any, y: Any, measure: str | Sequence[str] | None = None
) -> float | dict[str, float]:
    """Compare two representations of the same images.

    Args:
        x: tensor or array [N, ...]: [N, C, H, W], [N, T, D] or [N, D]. For measures that aren't
            symmetric, this is the stitched representation.
        y: the same for the other network: the expected representation. The number of channels may differ
            for `cca`, `svcca`, `pwcca` and `procrustes`. All sizes except N may differ for `cka`,
            `jaccard_knn`, `second_order_cosine` and `knn_agreement`.
        measure: the name of a measure, several names, or None for all; docs/reference/measures.md lists
            the formulas.

    Returns:
        The value if `measure` is one name, otherwise a dict of values by name. A value is NaN if the
        measure is undefined, such as for constant representations. Nearest neighbors are searched among
        at most 512 of the images, drawn at random, as in a sweep;
        `losses.neighborhoods.neighborhood_measures` searches among all.

    Raises:
        InputError: an unknown measure, no numbers, different numbers of images, or shapes that a named
            measure can't compare.

    Example:
        >>> ss.similarity(x, y, measure="cka")  # doctest: +SKIP
        0.83
    """
    names = [measure] if isinstance(measure, str) else list(measure or MEASURE_INPUTS)
    if unknown := [name for name in names if name not in MEASURE_INPUTS]:
        raise InputError(
            *(f"no measure is named {name!r}: {nearest(name, MEASURE_INPUTS)}" for name in unknown)
        )
    first, second = _to_tensor(x, "x"), _to_tensor(y, "y")
    if len(first) != len(second):
        raise InputError(
            f"x has {len(first)} images and y has {len(second)}; both must represent the same images"
        )
    values = compare_representations(first, second)
    missing = [name for name in names if name not in values]
    if measure is not None and missing:
        shapes = f"not {list(first.shape)} and {list(second.shape)}"
        raise InputError(
            *(f"{name} {_REQUIREMENTS[MEASURE_INPUTS[name]]}, {shapes}" for name in missing)
        )
    if isinstance(measure, str):
        return values[measure]
    return {name: values.get(name, float("nan")) for name in names}


def _to_tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        tensor = value.detach()
    else:
        try:
            tensor = torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError):
            raise InputError(
                f"{name}: is a {type(value).__name__}, but a tensor or an array [N, ...] is required"
            ) from None
    if tensor.ndim < 2 or not len(tensor) or tensor.is_complex():
        raise InputError(
            f"{name}: has the shape {list(tensor.shape)} and the type {tensor.dtype}, but real numbers "
            "[N, ...] with an axis of images and at least one further axis are required"
        )
    if tensor.ndim > 4:
        raise InputError(
            f"{name}: has the shape {list(tensor.shape)}; at most four axes [N, C, H, W] are allowed"
        )
    return tensor if tensor.is_floating_point() else tensor.float()
