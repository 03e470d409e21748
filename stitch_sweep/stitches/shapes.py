"""Shapes of representations, and the message for two that a stitch can't join."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stitch_sweep.core.errors import InputError

Shape = tuple[int, ...]
"""Shape of one image's representation: (C, H, W) for a feature map, (T, D) for a sequence of tokens,
(D,) for a vector."""


def show(shape: Shape) -> str:
    """`64x32x32`."""
    return "x".join(map(str, shape))


def channel_axis(shape: Sequence[int]) -> int:
    """Which axis of a shape holds the channels: the last of a sequence, else the first."""
    return 1 if len(shape) == 2 else 0


def has_class_token(shape: Shape) -> bool:
    """Whether it is a sequence of g^2 + 1 tokens: a class token, then g x g patches row by row.

    No number is both g^2 and g^2 + 1, so the length alone tells.
    """
    return len(shape) == 2 and shape[0] > 1 and math.isqrt(shape[0] - 1) ** 2 == shape[0] - 1


def as_map(shape: Shape) -> tuple[int, int, int]:
    """(C, H, W) of what has neighbours in a representation.

    A vector (D,) counts as a map of one position, (D, 1, 1). A sequence of g^2 tokens (g^2, D) counts as
    the map of its patches, (D, g, g), token g i + j at row i and column j. So does one of g^2 + 1; its
    class token, which comes first, has no place in the map.

    Raises:
        InputError: a sequence of another length.
    """
    if len(shape) == 2:
        tokens, width = shape
        side = math.isqrt(tokens - has_class_token(shape))
        if tokens - has_class_token(shape) != side**2:
            raise InputError(
                f"{show(shape)} is a sequence of {tokens} tokens, which are no square of patches, alone "
                "or after a class token; only 'linear' and 'identity' take such a sequence"
            )
        return width, side, side
    c, h, w = (shape[0], 1, 1) if len(shape) == 1 else shape
    return c, h, w


def have_neighbours(sender: Shape, receiver: Shape) -> bool:
    """Whether a window of several positions makes sense at every position of the receiver.

    A vector has one position, and a class token no neighbours; a sender's class token is in the way of
    nothing, since it is added to its patches.
    """
    return len(sender) > 1 and len(receiver) > 1 and not has_class_token(receiver)


def unfit(stitch: str, sender: Shape, receiver: Shape, wanted: str) -> InputError:
    """The error that says what `stitch` would need instead of these two shapes."""
    return InputError(
        f"stitch {stitch!r} can't join {show(sender)} to {show(receiver)}: it needs {wanted}"
    )
