"""The stitch that changes nothing."""

from __future__ import annotations

from torch import nn

from stitch_sweep.registry import STITCHES
from stitch_sweep.stitches.shapes import Shape, unfit


@STITCHES.register("identity")
def identity(sender: Shape, receiver: Shape) -> nn.Module:
    """S(x) = x; nothing is trained. A network stitched to itself so is the network itself.

    Raises:
        InputError: the shapes differ.
    """
    if sender != receiver:
        raise unfit("identity", sender, receiver, "equal shapes")
    return IdentityStitch()


class IdentityStitch(nn.Identity):
    """The identity, which however it is asked to start is the identity."""

    def start_as_identity(self) -> None:
        """Nothing to do."""
