from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from stitch_sweep.errors import InputError
from stitch_sweep.registry import STITCHES
from stitch_sweep.stitches import AffineStitch, LeastSquares, build_stitch

# (name, sender, receiver) of every kind of affine stitch there is.
CELLS = {
    "paper, equal": ("paper", (3, 4, 4), (2, 4, 4)),
    "paper, strided": ("paper", (3, 8, 8), (2, 4, 4)),
    "paper, to 1x1": ("paper", (2, 3, 3), (3, 1, 1)),
    "paper, upsampled": ("paper", (4, 2, 2), (2, 6, 6)),
    "paper, oblong": ("paper", (3, 4, 8), (2, 2, 4)),
    "conv1x1, equal": ("conv1x1", (3, 4, 4), (2, 4, 4)),
    "conv1x1, pooled": ("conv1x1", (3, 8, 8), (2, 2, 2)),
    "conv1x1, upsampled": ("conv1x1", (4, 2, 2), (2, 4, 4)),
    "linear, map": ("linear", (3, 2, 2), (2,)),
    "linear, vector": ("linear", (7,), (2,)),
}
every_cell = pytest.mark.parametrize(
    ("name", "sender", "receiver"), CELLS.values(), ids=CELLS.keys()
)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["paper", "conv1x1"]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_maps_of_every_ratio_are_joined(name, c, c2, ratio, h, w, up):
    small, large = (h, w), (ratio * h, ratio * w)
    sender, receiver = ((c, *small), (c2, *large)) if up else ((c, *large), (c2, *small))
    stitch = build_stitch(name, sender, receiver)
    assert stitch(torch.zeros(2, *sender)).shape == (2, *receiver)
    kernel = ratio if name == "paper" and not up else 1
    assert sum(p.numel() for p in stitch.parameters()) == c2 * (c * kernel**2 + 1)


@pytest.mark.parametrize("name", ["paper", "conv1x1"])
def test_a_larger_map_is_nearest_neighbour_upsampling_then_a_1x1_convolution(name):
    stitch = build_stitch(name, (5, 2, 3), (4, 6, 9)).double()
    x = draw(2, 5, 2, 3)
    upsampled = functional.interpolate(x, scale_factor=3, mode="nearest")
    by_hand = functional.conv2d(upsampled, stitch.conv.weight, stitch.conv.bias)
    torch.testing.assert_close(stitch(x), by_hand, rtol=1e-13, atol=1e-13)


def test_a_smaller_map_is_a_strided_convolution_or_pooling_and_a_1x1_convolution():
    x = draw(2, 3, 8, 8)
    paper = build_stitch("paper", (3, 8, 8), (5, 2, 2)).double()
    weight, bias = paper.conv.weight, paper.conv.bias
    assert weight.shape == (5, 3, 4, 4)
    assert torch.equal(paper(x), functional.conv2d(x, weight, bias, stride=4))
    pooled = build_stitch("conv1x1", (3, 8, 8), (5, 2, 2)).double()
    mean = x.reshape(2, 3, 2, 4, 2, 4).mean(dim=(3, 5))
    by_hand = torch.einsum("oc,bchw->bohw", pooled.conv.weight[:, :, 0, 0], mean)
    by_hand = by_hand + pooled.conv.bias[:, None, None]
    torch.testing.assert_close(pooled(x), by_hand, rtol=1e-13, atol=1e-13)


@every_cell
def test_rows_and_target_rows_say_what_forward_does(name, sender, receiver):
    stitch = build_stitch(name, sender, receiver).double()
    assert isinstance(stitch, AffineStitch)
    x = draw(3, *sender)
    (weight, bias) = stitch.parameters()
    rows = stitch.rows(x)
    assert rows.shape[1] == stitch.inputs
    outputs = rows @ weight.flatten(1).T + bias
    # Each row's output appears `replication` times, and target_rows sums over the copies.
    expected = stitch.target_rows(stitch(x)) / stitch.replication
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    assert len(rows) * stitch.replication * bias.numel() == stitch(x).numel()


def by_numpy(stitch: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Least squares without our rows: S is linear in its parameters, so its columns are probed."""
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
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    return float(np.mean((design @ solution - target) ** 2))


def optimum(stitch: AffineStitch, x: torch.Tensor, y: torch.Tensor, batch: int = 5) -> float:
    least_squares = LeastSquares(stitch)
    for one, other in zip(x.split(batch), y.split(batch), strict=True):
        least_squares.add(one, other)
    return least_squares.optimum()


def inputs(kind: str, *shape: int) -> torch.Tensor:
    x = draw(*shape)
    if kind == "dead channel":
        x[:, 1] = 0.0
    elif kind == "dependent":
        x[:, 1] = 2 * x[:, 0] - 3
    elif kind == "constant":
        x[:] = 0.7
    elif kind == "far from 0":
        x = x + 100
    elif kind == "relu":
        x = x.relu()
    return x


@every_cell
@pytest.mark.parametrize(
    "kind", ["plain", "relu", "dead channel", "dependent", "constant", "far from 0"]
)
def test_least_squares_finds_what_numpy_finds(name, sender, receiver, kind):
    stitch = build_stitch(name, sender, receiver).double()
    x, y = inputs(kind, 12, *sender), draw(12, *receiver, seed=1)
    found = optimum(stitch, x, y)
    assert found == pytest.approx(by_numpy(stitch, x, y), rel=1e-8, abs=1e-10)


@every_cell
def test_the_optimum_of_what_a_stitch_can_do_is_0(name, sender, receiver):
    teacher = build_stitch(name, sender, receiver, seed=9).double()
    x = draw(40, *sender)
    with torch.no_grad():
        y = teacher(x)
    assert optimum(teacher, x, y) == pytest.approx(0, abs=1e-12)


@every_cell
def test_no_training_gets_below_the_optimum(name, sender, receiver):
    stitch = build_stitch(name, sender, receiver).double()
    x, y = draw(120, *sender), draw(120, *receiver, seed=1)
    best = optimum(stitch, x, y)
    optimizer = torch.optim.LBFGS(stitch.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (stitch(x) - y).square().mean()
        value.backward()
        assert value.item() >= best * (1 - 1e-9)
        return value

    optimizer.step(loss)
    assert loss().item() == pytest.approx(best, rel=1e-4)  # and it does get there


def test_the_optimum_does_not_depend_on_batches():
    stitch = build_stitch("paper", (3, 8, 8), (5, 4, 4))
    x, y = draw(12, 3, 8, 8), draw(12, 5, 4, 4, seed=1)
    values = [optimum(stitch, x, y, batch) for batch in (1, 5, 12)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-12)


IDENTITIES = [
    ("paper", (4, 3, 3), (4, 3, 3)),
    ("conv1x1", (4, 3, 3), (4, 3, 3)),
    ("linear", (6,), (6,)),
    ("identity", (4, 3, 3), (4, 3, 3)),
    ("identity", (6,), (6,)),
]


@pytest.mark.parametrize(("name", "sender", "receiver"), IDENTITIES)
def test_a_stitch_that_starts_as_the_identity_copies_bit_for_bit(name, sender, receiver):
    stitch = build_stitch(name, sender, receiver, start="identity")
    x = draw(3, *sender, dtype=torch.float32)
    assert torch.equal(stitch(x), x)


def test_an_identity_start_into_a_larger_map_copies_each_value():
    stitch = build_stitch("paper", (4, 2, 2), (4, 4, 4), start="identity")
    x = draw(3, 4, 2, 2, dtype=torch.float32)
    assert torch.equal(stitch(x), functional.interpolate(x, scale_factor=2))


@pytest.mark.parametrize(
    ("name", "sender", "receiver"),
    [
        ("paper", (4, 4, 4), (5, 4, 4)),
        ("paper", (4, 4, 4), (4, 2, 2)),
        ("conv1x1", (4, 4, 4), (3, 2, 2)),
        ("linear", (4,), (5,)),
    ],
)
def test_what_is_not_square_cannot_start_as_the_identity(name, sender, receiver):
    with pytest.raises(InputError, match="can't start as the identity"):
        build_stitch(name, sender, receiver, start="identity")


@pytest.mark.parametrize(
    ("name", "sender", "receiver", "shown"),
    [
        ("paper", (3, 6, 6), (3, 4, 4), ("3x6x6", "3x4x4")),
        ("paper", (3, 4, 4), (3, 8, 4), ("3x4x4", "3x8x4")),
        ("paper", (3, 8, 4), (3, 4, 8), ("3x8x4", "3x4x8")),
        ("conv1x1", (3, 6, 6), (3, 4, 4), ("3x6x6", "3x4x4")),
        ("paper", (3, 4, 4), (7,), ("3x4x4", "7")),
        ("conv1x1", (7,), (3, 4, 4), ("7", "3x4x4")),
        ("linear", (3, 4, 4), (5, 2, 2), ("3x4x4", "5x2x2")),
        ("identity", (3, 4, 4), (5, 4, 4), ("3x4x4", "5x4x4")),
        ("identity", (3, 4, 4), (3, 2, 2), ("3x4x4", "3x2x2")),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both(name, sender, receiver, shown):
    with pytest.raises(InputError) as refused:
        build_stitch(name, sender, receiver)
    assert f"stitch {name!r} can't join {shown[0]} to {shown[1]}: " in str(refused.value)


def test_an_unknown_stitch_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'paper'"):
        build_stitch("papper", (3, 4, 4), (3, 4, 4))


def weights(*args, **options) -> torch.Tensor:
    return nn.utils.parameters_to_vector(build_stitch(*args, **options).parameters()).detach()


def test_initial_weights_are_a_function_of_seed_repeat_name_and_shapes():
    cell = ("paper", (3, 4, 4), (5, 4, 4))
    first = weights(*cell)
    assert torch.equal(first, weights(*cell))
    others = [
        weights(*cell, seed=1),
        weights(*cell, repeat=1),
        weights("conv1x1", *cell[1:]),
        weights("paper", (3, 8, 8), (5, 8, 8)),
    ]
    assert all(other.shape == first.shape for other in others)
    assert len({tuple(w.tolist()) for w in (first, *others)}) == 5


def test_initial_weights_neither_read_nor_move_the_global_generator():
    cell = ("paper", (3, 4, 4), (5, 4, 4))
    torch.manual_seed(1)
    first, state = weights(*cell), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(weights(*cell), first)


def test_every_registered_stitch_is_tested_here():
    assert set(STITCHES.names()) == {name for name, _, _ in [*CELLS.values(), *IDENTITIES]}
