"""The stitch of the paper that is reproduced."""

from __future__ import annotations

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.affine import ConvStitch
from stitch_sweep.stitches.shapes import Shape, as_map, show, unfit
from stitch_sweep.stitches.spatial import Match


@STITCHES.register("paper")
def paper(sender: Shape, receiver: Shape) -> ConvStitch:
    """The stitch of Hernandez et al. 2023 (arXiv 2303.11277).

    Where the receiver's map is k times smaller: a k x k convolution with stride k. Where it is larger:
    nearest-neighbour upsampling and a 1x1 convolution. Else a 1x1 convolution. All with bias. For
    other ratios there is `conv1x1` with `down: strided`, which is the same where both fit.

    Args:
        sender: (C, H, W) or (T, D).
        receiver: (C', H', W') or (T', D'), with H/H' = W/W' or its inverse a whole number.

    Raises:
        InputError: a vector, or sizes whose ratio is no whole number.
    """
    if len(sender) == 1 or len(receiver) == 1:
        wanted = "two feature maps or sequences (into a vector: 'linear')"
        raise unfit("paper", sender, receiver, wanted)
    (h, w), (h2, w2) = as_map(sender)[1:], as_map(receiver)[1:]
    down = h % h2 == 0 and w % w2 == 0 and h // h2 == w // w2
    up = h2 % h == 0 and w2 % w == 0 and h2 // h == w2 // w
    if not down and not up:
        sizes = f"{show((h, w))} and {show((h2, w2))}"
        wanted = f"maps whose sizes divide evenly, not {sizes} (any sizes: 'conv1x1')"
        raise unfit("paper", sender, receiver, wanted)
    return ConvStitch(sender, receiver, Match.around(sender, receiver, "strided", "nearest"))
