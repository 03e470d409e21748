"""How far apart two things are that should be equal."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Largest |one - other| over all entries, in float64; 0 means equal bit for bit.

    Args:
        one: any shape and type.
        other: the same shape and type.

    Returns:
        0 for tensors of equal bytes; infinity where shapes or types differ, or a NaN or an infinity
        of one isn't the same in the other. Equal values with different bytes (0 and -0) count as the
        smallest positive number, so that nothing that differs ever counts as 0.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return math.inf
    one, other = one.detach().cpu().contiguous(), other.detach().cpu().contiguous()
    if torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)):
        return 0.0
    gap = (one.double() - other.double()).abs()
    gap = torch.where((one == other) | (one.isnan() & other.isnan()), 0.0, gap)
    largest = gap.max().item()
    if math.isnan(largest):
        return math.inf
    return largest or math.ulp(0.0)


def first_difference(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> tuple[str, float] | None:
    """The first name, in the order of `one`, whose tensors differ or which only one has, and how far.

    Returns:
        (name, `largest_difference`), or None where everything is equal.
    """
    for name in [*one, *(n for n in other if n not in one)]:
        if name not in one or name not in other:
            return name, math.inf
        if gap := largest_difference(one[name], other[name]):
            return name, gap
    return None
