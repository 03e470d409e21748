"""The stitch that changes nothing."""

from __future__ import annotations

from torch import Tensor

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.base import Stitch
from stitch_sweep.stitches.shapes import Shape, unfit


@STITCHES.register("identity")
class IdentityStitch(Stitch):
    """S(x) = x; nothing is trained. A network stitched to itself so is the network itself.

    Raises:
        InputError: the shapes differ.
    """

    def __init__(self, sender: Shape, receiver: Shape) -> None:
        super().__init__(sender, receiver)
        if tuple(sender) != tuple(receiver):
            raise unfit("identity", sender, receiver, "equal shapes")

    def forward(self, x: Tensor) -> Tensor:
        """[B, *sender], as it is."""
        return x

    def multiply_adds(self) -> int:
        """None."""
        return 0

    def why_not(self, start: str) -> str | None:
        """However it is asked to start, it is the identity; data has no say in it."""
        return None if start in ("random", "identity") else "it is the identity already"

    def start_as_identity(self) -> None:
        """Nothing to do."""
