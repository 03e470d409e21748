"""The stitches of Stitch Sweep; importing this module registers them."""

from stitch_sweep.stitches import (  # noqa: F401
    channelwise,
    convolutions,
    dora,
    identity,
    linear,
    lowrank,
    mlp,
    normed,
    orthogonal,
    paper,
    permutation,
    residual,
)
