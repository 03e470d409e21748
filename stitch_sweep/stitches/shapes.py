"""Shapes of representations, and the message for two that a stitch can't join."""

from __future__ import annotations

from stitch_sweep.errors import InputError

Shape = tuple[int, ...]
"""Shape of one image's representation: (C, H, W) for a feature map, (D,) for a vector."""


def show(shape: Shape) -> str:
    """`64x32x32`."""
    return "x".join(map(str, shape))


def as_map(shape: Shape) -> tuple[int, int, int]:
    """(C, H, W); a vector (D,) counts as a map of one position, (D, 1, 1)."""
    c, h, w = (shape[0], 1, 1) if len(shape) == 1 else shape
    return c, h, w


def unfit(stitch: str, sender: Shape, receiver: Shape, wanted: str) -> InputError:
    """The error that says what `stitch` would need instead of these two shapes."""
    return InputError(
        f"stitch {stitch!r} can't join {show(sender)} to {show(receiver)}: it needs {wanted}"
    )
