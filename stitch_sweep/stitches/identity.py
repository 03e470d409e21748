"""The identity stitch."""

from __future__ import annotations

from torch import Tensor

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.base import Stitch
from stitch_sweep.stitches.shapes import Shape, shape_error


@STITCHES.register("identity")
class IdentityStitch(Stitch):
    """The identity, without parameters: S(x) = x.

    From a layer into the same layer of one network, the stitched network is the network itself.

    Use: as a check, or between networks with equal representations.

    Assumes: the representations are equal.

    Invariant to: nothing.

    Joins: equal shapes.

    Parameters: 0.

    Multiply-adds: 0.

    Raises:
        InputError: the shapes differ.
    """

    def __init__(self, sender: Shape, receiver: Shape) -> None:
        super().__init__(sender, receiver)
        if tuple(sender) != tuple(receiver):
            raise shape_error("identity", sender, receiver, "equal shapes")

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, [B, *sender]."""
        return x

    def multiply_adds(self) -> int:
        """Count 0."""
        return 0

    def explain_start_refusal(self, start: str) -> str | None:
        """Refuse starts from data, which have no effect."""
        return None if start in ("random", "identity") else "it is the identity already"

    def start_as_identity(self) -> None:
        """Do nothing, because the stitch is the identity."""
