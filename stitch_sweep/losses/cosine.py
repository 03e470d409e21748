"""Cosine of the angle between stitched and expected channel vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import CalibrationGroup, Invariance, Loss, LossInputs
from stitch_sweep.losses.rows import positions

_SHORTEST = 1e-12
"""Shorter vectors count as vectors of this length."""


def cosine_sum(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sum x y / (|x| |y|) over the rows in which y isn't 0.

    A ReLU can set all channels of a position to 0, which then has no direction. If only x is 0 there, the
    cosine counts as 0.

    Args:
        x: [n, C].
        y: [n, C].

    Returns:
        Two scalars: the sum in float64, and the number of rows in the sum.
    """
    x, y = x.double(), y.double()
    counts = (y != 0).any(dim=1)
    # The norm of a row that is exactly 0 has no derivative.
    norm_x = torch.where((x != 0).any(dim=1, keepdim=True), x, _SHORTEST).norm(dim=1)
    norm_y = torch.where(counts[:, None], y, 1.0).norm(dim=1)
    cosines = (x * y).sum(dim=1) / (norm_x.clamp(min=_SHORTEST) * norm_y.clamp(min=_SHORTEST))
    return torch.where(counts, cosines, 0.0).sum(), counts.sum()


@LOSSES.register("cosine")
class Cosine(Loss):
    r"""1 - the cosine between stitched and expected channel vectors, averaged over positions.

    ```math
    L = 1 - \frac{1}{|P|} \sum_{p \in P} \frac{s_p \cdot e_p}{\lVert s_p \rVert \lVert e_p \rVert}, \qquad P = \{p : e_p \ne 0\}
    ```

    The loss ignores the scale of each position. The calibration fits only one scale for all positions,
    because the scales of single positions differ from image to image. The loss isn't invariant to
    negative scales.

    Use: to test whether every position's channel vector has the same direction.

    Assumes: more than one channel. With a single channel, the loss depends on signs only.

    Range: 0 to 2. 1 if the expected representation is 0 everywhere.

    Flat for: a stitch that only applies one scale; a layer with one channel.

    Cost: O(n C), in float64.
    """  # noqa: E501

    needs_expected: ClassVar[bool] = True
    default_lr: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "": 0.03}
    invariance: ClassVar[Invariance] = "position_scale"
    calibration: ClassVar[CalibrationGroup] = "scale"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Compute the loss, a scalar; needs `stitched` and `expected` [B, *receiver shape]."""
        assert inputs.expected is not None
        total, rows = cosine_sum(positions(inputs.stitched), positions(inputs.expected))
        return (1 - total / rows.clamp(min=1)).to(inputs.stitched.dtype)
