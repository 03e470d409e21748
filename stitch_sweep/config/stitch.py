"""Section `stitch`: the trainable part."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from pydantic import Field

from stitch_sweep.config.components import Component
from stitch_sweep.core.bounds import From0
from stitch_sweep.core.registry import STITCHES, Registry

Start = Literal["random", "identity", "permutation", "least_squares", "procrustes", "auto"]
STARTS: tuple[Start, ...] = get_args(Start)
"""All starts: the ways to initialize a stitch."""
DATA_STARTS = ("permutation", "least_squares", "procrustes")
"""Starts that depend on the training set. So does `auto`, where it chooses one of them."""


class StitchConfig(Component):
    """Type of the stitch, its initialization, its sparsity penalty, and its options."""

    registry: ClassVar[Registry] = STITCHES

    name: str = Field(
        default="paper",
        description="Name of a registered stitch. Its options are keys of this section, too.",
    )
    start: Start = Field(
        default="random",
        description="Initial weights: random; the identity; channels matched one to one by correlation; "
        "the exact least-squares solution on the training images; the best rotation. `auto` is "
        "least squares where the stitch has it, and random elsewhere.",
    )
    l1: From0 = Field(
        default=0.0,
        description="Weight of the sparsity penalty (sum of absolute weights), which is added to the "
        "loss.",
    )
