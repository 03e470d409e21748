"""One-to-one matchings of channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stitch_sweep.core.registry import STITCHES
from stitch_sweep.stitches.closed_forms import AffineMap, best_permutation
from stitch_sweep.stitches.moments import RegressionMoments
from stitch_sweep.stitches.patch_stitch import PatchStitch
from stitch_sweep.stitches.resizing import Pool, Up
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.stitches.size_matching import Match


@STITCHES.register("permutation")
class PermutationStitch(PatchStitch):
    r"""Each output channel copies one channel of the sender; no channel is used twice.

    ```math
    S(x)_c = a_c\, x_{p(c)} + b_c
    ```

    `start` chooses p, which isn't trained. `permutation` matches channels by correlation and
    `least_squares` by squared error; both compute the optimal matching. Without `affine`, a = 1 and b =
    0, and nothing is trained. With `affine`, a and b are trained, as in REPAIR.

    Between unequal widths, only min(C, C') channels are matched, and an output channel without a
    partner is b_c. With `start: random`, p is random, which serves as a control.

    Use: to test whether channels are the same up to their order.

    Assumes: single channels correspond.

    Invariant to: the order of channels. With `affine`, also to their scales and shifts.

    Joins: maps, sequences and vectors of any sizes.

    Parameters: 0, or 2 C' with `affine`.

    Multiply-adds: 0, or P C' with `affine`.

    Source: Li et al. 2015, arXiv 1511.07543; Jordan et al. 2022, arXiv 2211.08403 (REPAIR).

    Args:
        sender: shape of the input, (C, H, W), (T, D) or (D,); see `as_map`.
        receiver: shape of the output, likewise.
        affine: whether to train a scale and a shift for each channel; otherwise nothing is trained.
        down: how an axis shrinks.
        up: how an axis grows.
    """

    source: Tensor
    matched: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        sender: Shape,
        receiver: Shape,
        *,
        affine: bool = False,
        down: Pool = "average",
        up: Up = "nearest",
    ) -> None:
        super().__init__(sender, receiver, Match.around(sender, receiver, down, up))
        self.affine = affine
        pairs = min(self.inputs, self.outputs)
        # Drawn on the CPU, so that a seed gives the same permutation on every device.
        sources = torch.randperm(self.inputs, device="cpu")[:pairs]
        targets = torch.randperm(self.outputs, device="cpu")[:pairs]
        source = torch.zeros(self.outputs, dtype=torch.int64, device="cpu")
        source[targets] = sources
        matched = torch.zeros(self.outputs, device="cpu")
        matched[targets] = 1
        self.register_buffer("source", source)
        self.register_buffer("matched", matched)  # 1, or 0 for a channel without a partner
        if affine:
            self.scale = nn.Parameter(torch.ones(self.outputs))
            self.shift = nn.Parameter(torch.zeros(self.outputs))
        else:
            self.register_buffer("scale", torch.ones(self.outputs), persistent=False)
            self.register_buffer("shift", torch.zeros(self.outputs), persistent=False)

    def matrix(self) -> Tensor:
        """Return W, [C', C], with at most one nonzero entry per row."""
        weight = self.scale.new_zeros(self.outputs, self.inputs)
        return weight.scatter(1, self.source[:, None], (self.matched * self.scale)[:, None])

    def offset(self) -> Tensor:
        """Return b, [C']."""
        return self.shift

    @torch.no_grad()
    def set_map(
        self, weight: Tensor, bias: Tensor, moments: RegressionMoments | None = None
    ) -> None:
        """Set W and b; W has at most one nonzero entry per row. Without `affine`, it is 1, and b = 0."""
        self.source.copy_(weight.abs().argmax(dim=1))
        self.matched.copy_((weight != 0).any(dim=1))
        if self.affine:
            self.scale.copy_(weight.sum(dim=1))
            self.shift.copy_(bias)

    def solve(self, moments: RegressionMoments, ridge_below: float) -> AffineMap:
        """Fit the permutation of least squared error, with scales and shifts if `affine`."""
        return best_permutation(moments, self.affine)

    def sparse_tensors(self) -> list[Tensor]:
        """Return an empty list, because a permutation can't be sparser."""
        return []

    def multiply_adds(self) -> int:
        """Count one for every value if `affine`; copying is free."""
        return self.positions * self.outputs if self.affine else 0

    def explain_start_refusal(self, start: str) -> str | None:
        """Refuse rotations too."""
        if start == "procrustes":
            return "a rotation isn't a permutation"
        return super().explain_start_refusal(start)

    def _map(self, x: Tensor) -> Tensor:
        scale = self.matched * self.scale
        return x[:, self.source] * scale[:, None, None] + self.shift[:, None, None]
