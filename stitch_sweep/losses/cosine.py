"""Cosine of the angle between stitched and expected channel vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import Calibrations, Invariance, Loss, LossInputs
from stitch_sweep.losses.rows import positions

_SHORTEST = 1e-12


def cosine_sum(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over rows of x y / (|x| |y|), and over how many rows: those where y isn't 0.

    A ReLU can leave a place with no channel at all; there is no direction to have. A row of x that is
    0 where y isn't counts as a cosine of 0.

    Args:
        x: [n, C].
        y: [n, C].

    Returns:
        Scalars: the sum in float64, and the number of rows that count.
    """
    x, y = x.double(), y.double()
    counts = (y != 0).any(dim=1)
    # Norms of rows that are exactly 0 have no derivative; shorter than this is taken as this.
    long_x = torch.where((x != 0).any(dim=1, keepdim=True), x, _SHORTEST).norm(dim=1)
    long_y = torch.where(counts[:, None], y, 1.0).norm(dim=1)
    cosines = (x * y).sum(dim=1) / (long_x.clamp(min=_SHORTEST) * long_y.clamp(min=_SHORTEST))
    return torch.where(counts, cosines, 0.0).sum(), counts.sum()


@LOSSES.register("cosine")
class Cosine(Loss):
    """1 - the mean cosine between stitched and expected channel vectors, over positions.

        L = 1 - 1/|P| sum_{p in P} s_p e_p / (|s_p| |e_p|),   P: positions where e_p isn't 0

    In [0, 2], without a unit; 1 where the expected representation is 0 throughout. Blind to a positive
    scale of each position; of these the calibration restores one, common to all, because the others
    differ from image to image. With a single channel it knows signs only. O(n C), float64 inside.
    """

    needs_expected: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "": 0.03}
    invariance: ClassVar[Invariance] = "position_scale"
    calibration: ClassVar[Calibrations] = "scale"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        assert inputs.expected is not None
        total, rows = cosine_sum(positions(inputs.stitched), positions(inputs.expected))
        return (1 - total / rows.clamp(min=1)).to(inputs.stitched.dtype)
