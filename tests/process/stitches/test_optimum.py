"""Long trainings against the optimum that a closed form finds."""

from __future__ import annotations

import pytest
import torch

from stitch_sweep.stitches.capacity import capacity
from stitch_sweep.stitches.starts import start_stitch
from tests.support.cases import check_all
from tests.support.closed_forms import OPTIMAL, batches
from tests.support.stitches import build, cells_of, draw, every_stitch_of, select_cells

# A permutation has no gradient, and large stitches take long.
TRAINABLE = select_cells(
    lambda stitch, name: name != "permutation" and capacity(stitch).parameters <= 1000, OPTIMAL
)


@every_stitch_of(TRAINABLE)
def test_no_training_gets_below_the_optimum(name, options):
    check_all(cells_of(name, options, TRAINABLE), check_training)


def check_training(name, options, sender, receiver):
    stitch = build(name, options, sender, receiver).double()
    x, y = draw(60, *sender), draw(60, *receiver, seed=1)
    fit = start_stitch(stitch, "least_squares", batches(x, y))
    best = fit.optimum()
    stitch = build(name, options, sender, receiver, seed=2).double().eval()
    if name == "orthogonal":  # orthogonal to float64 precision, not float32
        stitch.base.copy_(torch.linalg.qr(stitch.base).Q)
    optimizer = torch.optim.LBFGS(stitch.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (stitch(x) - y).square().mean()
        value.backward()
        assert value.item() >= best * (1 - 1e-9) - 1e-12
        return value

    optimizer.step(loss)
    if name in ("paper", "conv1x1", "conv3x3", "affine") and best > 1e-6:
        assert loss().item() == pytest.approx(best, rel=1e-3)  # and training reaches it
