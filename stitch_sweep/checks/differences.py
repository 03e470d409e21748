"""The difference between tensors that should be equal."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Return the largest |first - second| over all entries, in float64; 0 means equal bit for bit.

    Args:
        first: any shape and type.
        second: the same shape and type.

    Returns:
        0 for tensors of equal bytes. Infinity where shapes or types differ, or where only one of the
        tensors has a NaN or an infinity. Equal values with different bytes (0 and -0) count as the
        smallest positive number, so that 0 always means equal bytes.
    """
    if first.shape != second.shape or first.dtype != second.dtype:
        return math.inf
    first, second = first.detach().cpu().contiguous(), second.detach().cpu().contiguous()
    if torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8)):
        return 0.0
    gap = (first.double() - second.double()).abs()
    gap = torch.where((first == second) | (first.isnan() & second.isnan()), 0.0, gap)
    largest = gap.max().item()
    if math.isnan(largest):
        return math.inf
    return largest or math.ulp(0.0)


def first_difference(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> tuple[str, float] | None:
    """Find the first name whose tensors differ, or that is missing in one mapping.

    Names are compared in the order of `first`, then of `second`.

    Returns:
        (name, `largest_difference`), or None where everything is equal.
    """
    for name in [*first, *(n for n in second if n not in first)]:
        if name not in first or name not in second:
            return name, math.inf
        if gap := largest_difference(first[name], second[name]):
            return name, gap
    return None
