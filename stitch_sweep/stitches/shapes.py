"""Shapes of representations, and the error for shapes that a stitch can't join."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stitch_sweep.core.errors import InputError

Shape = tuple[int, ...]
"""Shape of the representation of one image: (C, H, W) for a feature map, (T, D) for a sequence of tokens,
(D,) for a vector."""


def format_shape(shape: Shape) -> str:
    """Format a shape as in `64x32x32`."""
    return "x".join(map(str, shape))


def channel_axis(shape: Sequence[int]) -> int:
    """Return the axis of the channels in a shape: the last of a sequence, otherwise the first."""
    return 1 if len(shape) == 2 else 0


def has_class_token(shape: Shape) -> bool:
    """Return whether a shape is a sequence of g^2 + 1 tokens: a class token, then g x g patches by rows.

    No number > 1 is both a square and a square plus 1, so the length decides.
    """
    return len(shape) == 2 and shape[0] > 1 and math.isqrt(shape[0] - 1) ** 2 == shape[0] - 1


def as_map(shape: Shape) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the feature map that a stitch makes of a representation.

    A vector (D,) counts as a map of one position, (D, 1, 1). A sequence of g^2 tokens (g^2, D) counts
    as the map of its patches, (D, g, g), with token g i + j at row i and column j. So does a sequence
    of g^2 + 1 tokens; its class token, which comes first, isn't part of the map.

    Raises:
        InputError: the sequence has another length.
    """
    if len(shape) == 2:
        tokens, width = shape
        side = math.isqrt(tokens - has_class_token(shape))
        if tokens - has_class_token(shape) != side**2:
            raise InputError(
                f"{format_shape(shape)} is a sequence of {tokens} tokens, which is neither a square of "
                "patches nor a class token and a square; "
                "only 'linear' and 'identity' join such a sequence"
            )
        return width, side, side
    c, h, w = (shape[0], 1, 1) if len(shape) == 1 else shape
    return c, h, w


def have_neighbors(sender: Shape, receiver: Shape) -> bool:
    """Return whether every position of the receiver has neighbors, so that larger windows are possible.

    A vector has one position, and a class token has no neighbors. A sender's class token is allowed,
    because it is added to the patches.
    """
    return len(sender) > 1 and len(receiver) > 1 and not has_class_token(receiver)


def shape_error(stitch: str, sender: Shape, receiver: Shape, needed: str) -> InputError:
    """Return the error for two shapes that a stitch can't join; `needed` describes the allowed shapes."""
    return InputError(
        f"stitch {stitch!r} can't join {format_shape(sender)} to {format_shape(receiver)}: "
        f"it needs {needed}"
    )
