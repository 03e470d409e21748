"""Conversion of maps whose channels are last.

Stitches see maps as [C, H, W]. Networks such as Swin keep [H, W, C]: the part before a cut then ends
with a permutation to channels first, and the part after it begins with the reverse.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Turn the shape (H, W, C) into (C, H, W)."""
    return (shape[2], *shape[:2])


def keeps_channels_last(shape: Sequence[int]) -> bool:
    """Return whether a map has the shape (H, W, C) rather than (C, H, W).

    Images are square, so the two equal sides are height and width. If all three sides are equal, the map
    counts as (C, H, W).
    """
    return len(shape) == 3 and shape[0] == shape[1] != shape[2]


def permute_node(graph: fx.Graph, node: fx.Node, order: tuple[int, ...]) -> fx.Node:
    """Add a contiguous copy of a value with permuted axes to a graph.

    The copy is contiguous because the bits of later operations may depend on the memory layout.
    """
    permuted = graph.call_method("permute", (node, *order))
    return graph.call_method("clone", (permuted,), {"memory_format": torch.contiguous_format})
