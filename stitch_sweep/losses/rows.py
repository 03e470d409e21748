"""How a representation [B, C, ...] becomes the rows of a matrix."""

from __future__ import annotations

from torch import Tensor


def positions(x: Tensor) -> Tensor:
    """A row per image and place, a column per channel: [B, C, ...] -> [B * places, C].

    A vector representation [B, D] has one place and stays as it is.
    """
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def images(x: Tensor) -> Tensor:
    """A row per image, a column per unit: [B, ...] -> [B, units]."""
    return x.flatten(1)
