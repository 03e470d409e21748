"""The exact optimum of an affine stitch under squared error."""

from __future__ import annotations

import torch
from torch import Tensor

from stitch_sweep.stitches.affine import AffineStitch


class LeastSquares:
    """Normal equations of an affine stitch, accumulated in float64, one pass, bounded memory.

    With rows r (a 1 appended for the bias) and targets y over all training positions,

        A = sum r r^T,   B = sum r y^T,   c = sum |y|^2,
        min over W of sum |W r - y|^2 = c - tr(B^T A^+ B).

    A^+ is the pseudo-inverse by eigendecomposition; eigenvalues below D eps max are taken as 0, so
    dead channels and other dependent inputs are no trouble.

    Args:
        stitch: an affine stitch; its weights play no part.
    """

    def __init__(self, stitch: AffineStitch) -> None:
        self._stitch = stitch
        self._a = self._b = self._c = torch.zeros(())
        self._values = 0

    @torch.no_grad()
    def add(self, x: Tensor, y: Tensor) -> None:
        """Add a batch: x [B, *sender] with what it should become, y [B, *receiver]."""
        rows = self._stitch.rows(x.double())
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        targets = self._stitch.target_rows(y.double())
        self._a = self._a.to(rows) + self._stitch.replication * rows.T @ rows
        self._b = self._b.to(rows) + rows.T @ targets
        self._c = self._c.to(rows) + y.double().square().sum()
        self._values += y.numel()

    def optimum(self) -> float:
        """The smallest mean squared error, per value of the expected representation."""
        eigenvalues, vectors = torch.linalg.eigh(self._a)
        kept = eigenvalues > len(eigenvalues) * torch.finfo(torch.float64).eps * eigenvalues[-1]
        projected = vectors[:, kept].T @ self._b
        explained = (projected.square() / eigenvalues[kept, None]).sum()
        return max(0.0, (self._c - explained).item()) / self._values
