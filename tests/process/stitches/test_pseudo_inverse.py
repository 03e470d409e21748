"""Least squares of every linear stitch against the pseudo-inverse of its design matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stitch_sweep.stitches.base import Stitch
from stitch_sweep.stitches.capacity import capacity
from stitch_sweep.stitches.starts import start_stitch
from tests.support.cases import check_all
from tests.support.closed_forms import KINDS, batches, inputs, mse
from tests.support.stitches import build, cells_of, draw, every_stitch_of, select_cells

# Stitches that are linear in few parameters: numpy gets the design matrix by probing the stitch.
LINEAR = select_cells(
    lambda stitch, name: (
        name in ("paper", "conv1x1", "conv3x3", "linear", "affine")
        and capacity(stitch).parameters <= 200
    )
)


def by_numpy(stitch: Stitch, x: torch.Tensor, y: torch.Tensor) -> float:
    """Least squares without `rows`: S is linear in its parameters, so its columns are probed."""
    parameters = list(stitch.parameters())
    columns = []
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
        for parameter in parameters:
            for k in range(parameter.numel()):
                parameter.view(-1)[k] = 1.0
                columns.append(stitch(x).flatten().numpy().copy())
                parameter.view(-1)[k] = 0.0
    design = np.stack(columns, axis=1)
    target = y.flatten().numpy()
    solution = np.linalg.pinv(design, rcond=1e-12) @ target
    return float(np.mean((design @ solution - target) ** 2))


@every_stitch_of(LINEAR)
def test_least_squares_finds_what_the_pseudo_inverse_finds(name, options):
    cells = cells_of(name, options, LINEAR)
    check_all(((*cell, kind) for cell in cells for kind in KINDS), check_pseudo_inverse)


def check_pseudo_inverse(name, options, sender, receiver, kind):
    if kind in ("dead channel", "dependent") and sender[0] < 2:
        return  # a single channel
    stitch = build(name, options, sender, receiver).double()
    x, y = inputs(kind, 12, *sender), draw(12, *receiver, seed=1)
    expected = by_numpy(stitch, x, y)
    fit = start_stitch(stitch, "least_squares", batches(x, y))
    assert fit.optimum() == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert mse(stitch, x, y) == pytest.approx(expected, rel=1e-8, abs=1e-9)
