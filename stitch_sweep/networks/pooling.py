"""The features of linear probes: representations pooled over positions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

GRID = 4
"""Feature maps are averaged to at most GRID x GRID positions."""
FEATURES = 2048
"""Maximum of channels x positions; wider maps use a coarser grid, down to one position."""


def pooled(representation: Tensor) -> Tensor:
    """Pool a representation to the features of a probe.

    Args:
        representation: [B, C, H, W], averaged over the cells of a g x g grid, where g is the largest of
            4, 2 and 1 that is at most H and W with C g^2 <= 2048, or else 1;
            [B, T, D], averaged over the T tokens; or [B, D].

    Returns:
        [B, features].
    """
    if representation.ndim == 4:
        channels, *sides = representation.shape[1:]
        grids = (g for g in (GRID, 2) if g <= min(sides) and channels * g * g <= FEATURES)
        representation = functional.adaptive_avg_pool2d(representation, next(grids, 1))
    elif representation.ndim == 3:
        representation = representation.mean(dim=1)
    return representation.flatten(1)
