"""Closed forms fitted to drawn values in batches, and the cells that have an optimum."""

from __future__ import annotations

import torch

from stitch_sweep.stitches.base import AffineStitch, Stitch
from stitch_sweep.stitches.least_squares import LeastSquares, has_optimum
from tests.support.stitches import draw, select_cells

Batches = list[tuple[torch.Tensor, torch.Tensor]]

OPTIMAL = select_cells(lambda stitch, name: has_optimum(stitch))
"""The cells whose stitch has an optimum in closed form."""


def batches(x: torch.Tensor, y: torch.Tensor, size: int = 5) -> Batches:
    return list(zip(x.split(size), y.split(size), strict=True))


def fitted(stitch: AffineStitch, x: torch.Tensor, y: torch.Tensor, size: int = 5) -> LeastSquares:
    fit = LeastSquares(stitch)
    for batch in batches(x, y, size):
        fit.add(*batch)
    return fit


def mse(stitch: Stitch, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return (stitch.eval()(x) - y).square().mean().item()


def inputs(kind: str, *shape: int) -> torch.Tensor:
    """Random inputs of a stitch that are difficult in one way, a member of `KINDS`."""
    x = draw(*shape)
    if kind == "dead channel":
        x[:, 1] = 0.0
    elif kind == "dependent":
        x[:, 1] = 2 * x[:, 0] - 3
    elif kind == "constant":
        x[:] = 0.7
    elif kind == "far from 0":
        x = x + 1000
    elif kind == "relu":
        x = x.relu()
    return x


KINDS = ["plain", "relu", "dead channel", "dependent", "constant", "far from 0"]
