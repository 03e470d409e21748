"""What every stitch is, and the affine ones in particular."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from stitch_sweep.stitches.closed_forms import AffineMap, least_squares
from stitch_sweep.stitches.moments import Moments
from stitch_sweep.stitches.shapes import Shape

MAX_INPUTS = 8192
"""Longer rows get no closed form: their second moments would take more than half a GiB."""

DATA_STARTS = ("permutation", "least_squares", "procrustes")
"""Starts that look at the training set."""
STARTS = ("random", "identity", *DATA_STARTS)
"""Every way a stitch may start."""


class Stitch(nn.Module, ABC):
    """A map from one representation to another: [B, *sender] to [B, *receiver].

    Args:
        sender: (C, H, W), (T, D) or (D,), without the batch.
        receiver: likewise.
    """

    def __init__(self, sender: Shape, receiver: Shape) -> None:
        super().__init__()
        self.sender, self.receiver = tuple(sender), tuple(receiver)

    @abstractmethod
    def multiply_adds(self) -> int:
        """Products with weights that one image takes; see `capacity`."""

    def sparse_tensors(self) -> list[Tensor]:
        """What a sparsity penalty acts on: weights that mix channels or positions, never biases."""
        return []

    def why_not(self, start: str) -> str | None:
        """Why it can't start so, or None where it can; known from the shapes alone.

        Args:
            start: one of `STARTS`.
        """
        return None if start == "random" else "it is not an affine map"

    def start_as_identity(self) -> None:
        """Become the map that copies; call it where `why_not("identity")` is None."""
        raise NotImplementedError


class AffineStitch(Stitch):
    """A stitch whose output positions are each W r + b of one row r of its input.

    That structure is what the closed forms need: `rows` and `target_rows` line up the inputs with
    what they should become.
    """

    has_optimum: bool = True
    """Whether `solve` gives the smallest squared error that any training of it could reach."""

    inputs: int
    """D, the length of a row."""

    outputs: int
    """C, the length of what a row becomes."""

    positions: int
    """Rows per image."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """W as it is applied, [C, D]; differentiable."""

    @abstractmethod
    def offset(self) -> Tensor:
        """b, [C]."""

    @abstractmethod
    def set_map(self, weight: Tensor, bias: Tensor, moments: Moments | None = None) -> None:
        """Become the map with this W and b, which has to be one of those that it can be.

        Args:
            weight: [C, D].
            bias: [C].
            moments: of the training set, where W and b come from it.
        """

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """The inputs of the affine map, [n, D], for a batch [B, *sender]."""

    @abstractmethod
    def target_rows(self, y: Tensor) -> Tensor:
        """Wanted outputs [n, C], for a batch [B, *receiver]; summed over the copies of a row."""

    @abstractmethod
    def target_values(self, y: Tensor) -> Tensor:
        """Wanted outputs, each copy for itself, [N, C]."""

    def copies(self) -> Tensor | None:
        """How many output positions each row of an image becomes, [positions]; None: one each."""
        return None

    def solve(self, moments: Moments, ridge_below: float) -> AffineMap:
        """The map of least squared error among those that it can be.

        Args:
            moments: of the training set.
            ridge_below: see `closed_forms.least_squares`.
        """
        return least_squares(moments, ridge_below)

    def multiply_adds(self) -> int:
        """C D for every row."""
        return self.positions * self.outputs * self.inputs

    def sparse_tensors(self) -> list[Tensor]:
        """W as it is applied, however it is parametrised."""
        return [self.matrix()]

    def why_not(self, start: str) -> str | None:
        """Rows that are too long; an identity that isn't square."""
        if start in DATA_STARTS and self.inputs > MAX_INPUTS:
            return (
                f"its rows have {self.inputs} values, and closed forms are for at most {MAX_INPUTS}"
            )
        if start == "identity" and self.inputs != self.outputs:
            return f"it maps {self.inputs} values to {self.outputs}, and not to as many"
        return None

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """W the unit matrix, b = 0."""
        self.set_map(torch.eye(self.outputs, device="cpu"), torch.zeros(self.outputs, device="cpu"))
