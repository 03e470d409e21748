"""A representation is a feature map, a sequence of tokens, or a vector.

The layers of a transformer are sequences [T, D]: T tokens of D values. T shows whether one of the
tokens is a class token, because no number above 1 is both a square and a square plus 1:

- T = g^2: the tokens of g x g patches, row by row, without class token;
- T = g^2 + 1: a class token first, then the tokens of g x g patches;
- any other T: only `linear` and `identity` accept the sequence; other stitches refuse it before
  anything runs.

The patches are treated as a map [D, g, g], with token g i + j at row i and column j. Between different
g, the sizes of these maps are matched. Below, x_p is the patch token at position p of a sender without
class token. For a sender with class token, t_p is this patch token, and t_0 is the class token. A
stitch is applied to these vectors r:

| sender | receiver | r of position p | r of the class token |
|---|---|---|---|
| without | without | x_p | |
| with | without | t_p + t_0 | |
| without | with | x_p | mean over p of x_p |
| with | with | t_p | t_0 |

If only the sender has a class token, it is added to every patch, as in "readout add" of Ranftl et al.
2021 (arXiv 2103.13413). If only the receiver has a class token, the stitch computes it from the mean
over patches, because this mean is the input of the head in networks without class token. If the
receiver's representation is a vector, r is by default the mean over all positions. These rules have no
weights. `down` and `up` don't change t_0. If r is a window, the window of the class token
contains t_0 at every position.

A vector of D values counts as a map of D channels and one position. Losses and measures treat each
token, including the class token, as a position.
"""

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
    """Return whether a shape is a sequence of g^2 + 1 tokens: a class token, then g x g patches."""
    return len(shape) == 2 and shape[0] > 1 and math.isqrt(shape[0] - 1) ** 2 == shape[0] - 1


def as_map(shape: Shape) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the feature map that a stitch makes of a representation.

    A vector (D,) counts as a map of one position, (D, 1, 1). A sequence counts as the map of its patches,
    (D, g, g), without the class token.

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
