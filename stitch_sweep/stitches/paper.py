"""The stitch of Hernandez et al. 2023."""

from __future__ import annotations

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.patch_stitch import ConvStitch
from stitch_sweep.stitches.shapes import Shape, as_map, format_shape, shape_error
from stitch_sweep.stitches.size_matching import Match


@STITCHES.register("paper")
def paper(sender: Shape, receiver: Shape) -> ConvStitch:
    """A convolution that also matches the sizes: the stitch of Hernandez et al. 2023.

    ```math
    S(x)_p = W r_p + b
    ```

    If each side of the receiver's map is k times smaller than the sender's, S is a k x k convolution
    with stride k. If the receiver's map is larger, S is a 1x1 convolution and nearest-neighbor
    upsampling. Between equal sizes, S is a 1x1 convolution. All convolutions have a bias. For other
    ratios, use `conv1x1` with `down: strided`, which equals `paper` where both are possible.

    Use: to reproduce the paper.

    Assumes: the ratio of the two maps' sizes is a whole number, the same for height and width.

    Invariant to: invertible affine maps of the channels.

    Joins: maps whose sizes have such a ratio, and sequences whose grids of patches do; no vectors.

    Parameters: C' (D + 1), with D = C k^2.

    Multiply-adds: P C' D.

    Source: Hernandez, Dangovski, Lu and Soljacic 2023, arXiv 2303.11277.

    Args:
        sender: shape of the input, (C, H, W) or (T, D).
        receiver: shape of the output, (C', H', W') or (T', D'), with H/H' = W/W' or its inverse a whole
            number.

    Raises:
        InputError: a shape is a vector, or the ratio of the sizes is not a whole number.
    """
    if len(sender) == 1 or len(receiver) == 1:
        needed = "two feature maps or sequences; use 'linear' for a vector"
        raise shape_error("paper", sender, receiver, needed)
    (h, w), (h2, w2) = as_map(sender)[1:], as_map(receiver)[1:]
    down = h % h2 == 0 and w % w2 == 0 and h // h2 == w // w2
    up = h2 % h == 0 and w2 % w == 0 and h2 // h == w2 // w
    if not down and not up:
        sizes = f"{format_shape((h, w))} and {format_shape((h2, w2))}"
        needed = f"maps whose sizes divide evenly, not {sizes}; use 'conv1x1' for other sizes"
        raise shape_error("paper", sender, receiver, needed)
    return ConvStitch(sender, receiver, Match.around(sender, receiver, "strided", "nearest"))
