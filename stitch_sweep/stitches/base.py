"""The interfaces of stitches in general, and of affine stitches."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from stitch_sweep.config.stitch import DATA_STARTS
from stitch_sweep.stitches.closed_forms import AffineMap, least_squares
from stitch_sweep.stitches.moments import RegressionMoments
from stitch_sweep.stitches.shapes import Shape

MAX_INPUTS = 8192
"""Longest rows with closed forms; the second moments of longer rows would take more than half a GiB."""


class Stitch(nn.Module, ABC):
    """A map from one representation to another: [B, *sender] to [B, *receiver].

    Args:
        sender: shape of the input without the batch, (C, H, W), (T, D) or (D,).
        receiver: shape of the output, likewise.
    """

    def __init__(self, sender: Shape, receiver: Shape) -> None:
        super().__init__()
        self.sender, self.receiver = tuple(sender), tuple(receiver)

    @abstractmethod
    def multiply_adds(self) -> int:
        """Count the multiplications by trained weights for one image; see `Capacity`."""

    def sparse_tensors(self) -> list[Tensor]:
        """Return the tensors of a sparsity penalty: weights that mix channels or positions, no biases."""
        return []

    def explain_start_refusal(self, start: str) -> str | None:
        """Explain why the stitch can't have a start; None if it can. Depends on shapes alone.

        Args:
            start: one of `STARTS`.
        """
        return None if start == "random" else "it is not an affine map"

    def start_as_identity(self) -> None:
        """Set the map to the identity; only if `explain_start_refusal("identity")` returns None."""
        raise NotImplementedError

    def explain_raw_coordinates(self) -> str | None:
        """Explain why the stitch can't be trained on whitened channels; None for a `ChannelMixer`."""
        return "it is not an affine map with free weights"


class AffineStitch(Stitch):
    """A stitch whose output at each position is W r + b, for one row r of its input.

    Closed forms use this structure: `rows` and `target_rows` pair inputs with targets.
    """

    has_optimum: bool = True
    """Whether `solve` returns a map with the smallest squared error that training can reach."""

    inputs: int
    """D, the length of a row."""

    outputs: int
    """C, the length of a row's output."""

    positions: int
    """Rows per image."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """Return W as it is applied, [C, D]; differentiable."""

    @abstractmethod
    def offset(self) -> Tensor:
        """Return b, [C]."""

    @abstractmethod
    def set_map(
        self, weight: Tensor, bias: Tensor, moments: RegressionMoments | None = None
    ) -> None:
        """Set W and b, which must be possible for the stitch.

        Args:
            weight: W, [C, D].
            bias: b, [C].
            moments: moments of the training set, if W and b were fitted to it.
        """

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """Return the inputs of the affine map, [n, D], for a batch [B, *sender]."""

    @abstractmethod
    def target_rows(self, y: Tensor) -> Tensor:
        """Return the targets [n, C] for a batch [B, *receiver], summed over the copies of a row."""

    @abstractmethod
    def target_values(self, y: Tensor) -> Tensor:
        """Return the targets of all copies, [N, C], for a batch [B, *receiver]."""

    def copies(self) -> Tensor | None:
        """Return the number of outputs of each row of an image, [positions]; None if all are 1."""
        return None

    def solve(self, moments: RegressionMoments, ridge_below: float) -> AffineMap:
        """Return the map with the least squared error among the maps that the stitch can represent.

        Args:
            moments: moments of the training set.
            ridge_below: see `closed_forms.least_squares`.
        """
        return least_squares(moments, ridge_below)

    def multiply_adds(self) -> int:
        """Count C D for every row."""
        return self.positions * self.outputs * self.inputs

    def sparse_tensors(self) -> list[Tensor]:
        """Return the applied W, for every parametrization."""
        return [self.matrix()]

    def explain_start_refusal(self, start: str) -> str | None:
        """Refuse closed forms for rows that are too long, and an identity for a W that isn't square."""
        if start in DATA_STARTS and self.inputs > MAX_INPUTS:
            return (
                f"its rows have {self.inputs} values, and closed forms are for at most {MAX_INPUTS}"
            )
        if start == "identity" and self.inputs != self.outputs:
            return f"it maps {self.inputs} values to {self.outputs}, not to equally many"
        return None

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Set W to the unit matrix and b to 0."""
        self.set_map(torch.eye(self.outputs, device="cpu"), torch.zeros(self.outputs, device="cpu"))


class ChannelMixer(AffineStitch):
    """An affine stitch whose W and b are free, so that it can be trained on whitened channels.

    A row consists of blocks of the sender's C channels: r is [before, C, after].
    """

    row_shape: tuple[int, int, int]
    """(before, C, after)."""

    keeps_zeros: bool = False
    """Whether rows contain zeros that stand for no position, so that channels can't be centered."""

    @abstractmethod
    def channel_values(self, x: Tensor) -> Tensor:
        """Return the vectors of channels that W is applied to, [n, C], for a batch [B, *sender]."""

    @abstractmethod
    def apply_map(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Apply the stitch to [B, *sender] with other weights: W [outputs, D], b [outputs]."""

    def explain_raw_coordinates(self) -> str | None:
        """Return None: any change of the channels' coordinates can be folded into W and b."""
        return None
