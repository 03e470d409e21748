"""Stitches in whitened coordinates: the same functions, the same start, other directions of descent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stitch_sweep.stitches.base import ChannelMixer, Stitch
from stitch_sweep.stitches.shapes import channel_axis
from stitch_sweep.stitches.storage import load_stitch, pack_stitch
from stitch_sweep.stitches.whitened import EIGENVALUE_FLOOR, WhitenedStitch, Whitening
from stitch_sweep.training.whitening import whiten
from tests.support.cases import check_all
from tests.support.stitches import build, draw, every_stitch_of, joined_shapes, select_cells

MIXERS = select_cells(lambda stitch, name: stitch.explain_raw_coordinates() is None)
every_mixer = every_stitch_of(MIXERS)


def correlated(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw representations whose channels are correlated, far from 0, and of unequal scale."""
    x = draw(*shape, dtype=dtype)
    axis = 1 + channel_axis(shape[1:])
    count = shape[axis]
    mixed = x + 0.5 * x.roll(1, dims=axis)
    scale = torch.logspace(-0.3, 0.3, count, dtype=dtype)
    others = [1] * (len(shape) - axis - 1)
    return mixed * scale.reshape(-1, *others) + 3


def moved(stitch: WhitenedStitch) -> WhitenedStitch:
    """Move a stitch away from its start, as training does."""
    with torch.no_grad():
        for k, parameter in enumerate(stitch.parameters()):
            parameter += draw(*parameter.shape, seed=k, dtype=parameter.dtype)
    return stitch


@every_mixer
def test_it_starts_as_the_ordinary_stitch_and_folds_into_it_bit_for_bit(name, options, tmp_path):
    def check(dtype: torch.dtype, sender: tuple[int, ...], receiver: tuple[int, ...]) -> None:
        stitch = build(name, options, sender, receiver).to(dtype)
        x = correlated(40, *sender, dtype=dtype)
        before = stitch(x).detach()
        whitened = whiten(stitch, x.split(16))
        tolerance = 1e-10 if dtype == torch.float64 else 3e-5
        torch.testing.assert_close(whitened(x), before, rtol=tolerance, atol=tolerance * 10)
        trained = moved(whitened)(x).detach()
        assert not torch.allclose(trained, before, rtol=0.1)
        folded = whitened.fold()
        assert torch.equal(folded(x), trained)
        if dtype == torch.float32:
            path = tmp_path / "stitch.safetensors"
            path.write_bytes(pack_stitch(folded, name, sender, receiver, options, {}))
            assert torch.equal(load_stitch(path)(x), trained)

    shapes = joined_shapes(name, options)
    check_all([(d, *pair) for d in (torch.float64, torch.float32) for pair in shapes], check)


@every_mixer
def test_it_applies_its_weights_to_whitened_channels(name, options):
    """W' and b' on whitened rows are W and b on rows: to rounding in float64, about 1e-3 in float32."""

    def check(dtype: torch.dtype, sender: tuple[int, ...], receiver: tuple[int, ...]) -> None:
        stitch = build(name, options, sender, receiver).to(dtype)
        x = correlated(40, *sender, dtype=dtype)
        whitening = fitted(stitch, x)
        whitened = moved(WhitenedStitch(stitch, whitening))
        rows = stitch.rows(x)
        weight, bias = whitened.applied_map()
        found = (rows @ weight.T + bias).detach().double()
        blocks = rows.double().reshape(-1, *stitch.row_shape) - whitening.mean[:, None]
        blocks = torch.einsum("nbca,dc->nbad", blocks, whitening.matrix)
        expected = blocks.flatten(1) @ whitened.weight.detach().double().flatten(1).T
        expected += whitened.bias.detach().double()
        tolerance = 1e-9 if dtype == torch.float64 else 2e-3
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)

    shapes = joined_shapes(name, options)
    check_all([(d, *pair) for d in (torch.float64, torch.float32) for pair in shapes], check)


def fitted(stitch: ChannelMixer, x: Tensor) -> Whitening:
    values = stitch.channel_values(x).double()
    covariance = torch.cov(values.T, correction=0).reshape(values.shape[1], -1)
    return Whitening.fit(values.mean(dim=0), covariance, centered=not stitch.keeps_zeros)


@every_mixer
def test_second_moments_of_whitened_channels_are_the_unit_matrix(name, options):
    def check(sender: tuple[int, ...], receiver: tuple[int, ...]) -> None:
        stitch = build(name, options, sender, receiver).double()
        x = correlated(60, *sender)
        whitened = whiten(stitch, x.split(7))
        values = stitch.channel_values(x) - whitened.center
        values = values @ whitened.zca.T
        moments = values.T @ values / len(values)
        # Moments are accumulated in parts; directions without variance can't have any.
        torch.testing.assert_close(moments, torch.eye(len(moments)).double(), rtol=0, atol=1e-8)

    check_all(joined_shapes(name, options), check)


def test_channels_are_centered_only_without_zero_padding():
    for name, centered in (
        ("conv1x1", True),
        ("paper", True),
        ("linear", True),
        ("conv3x3", False),
    ):
        stitch = build(name, {}, (4, 4, 4), (4, 4, 4)).double()
        whitened = whiten(stitch, [correlated(20, 4, 4, 4)])
        assert bool(whitened.center.abs().max() > 0) == centered, name


def test_directions_without_variance_are_not_amplified():
    stitch = build("conv1x1", {}, (4, 4, 4), (2, 4, 4))
    x = correlated(50, 4, 4, 4, dtype=torch.float32)
    x[:, 0] = 7.0
    x[:, 1] = x[:, 2]
    whitening = fitted(stitch.double(), x.double())
    largest = torch.linalg.eigvalsh(whitening.matrix)[-1].item()
    variance = x.transpose(0, 1).flatten(1).double().var(dim=1, correction=0).mean().item()
    assert largest == pytest.approx((EIGENVALUE_FLOOR * variance) ** -0.5, rel=1e-6)
    dead = whiten(build("conv1x1", {}, (4, 4, 4), (2, 4, 4)), [torch.zeros(20, 4, 4, 4)])
    assert torch.equal(dead.zca, torch.eye(4))


def test_a_penalty_refers_to_the_applied_weights_and_decay_to_the_whitened_ones():
    stitch = build("conv1x1", {}, (4, 4, 4), (2, 4, 4))
    whitened = moved(whiten(stitch, [correlated(20, 4, 4, 4, dtype=torch.float32)]))
    assert torch.equal(whitened.sparse_tensors()[0], whitened.fold().matrix())
    assert {name for name, _ in whitened.named_parameters()} == {"weight", "bias"}


def test_whitened_coordinates_equalize_the_rates_of_descent():
    """Plain gradient descent reaches the optimum of a badly conditioned problem in few steps."""
    x = correlated(200, 6, 1, 1)
    target = build("conv1x1", {}, (6, 1, 1), (3, 1, 1), seed=1).double()(x).detach()

    def remaining_error(stitch: Stitch, lr: float) -> float:
        optimizer = torch.optim.SGD(stitch.parameters(), lr=lr)
        for _ in range(50):
            optimizer.zero_grad()
            error = (stitch(x) - target).square().sum() / len(x)
            error.backward()
            optimizer.step()
        return error.item()

    plain = build("conv1x1", {}, (6, 1, 1), (3, 1, 1)).double()
    second = x.flatten(1).T @ x.flatten(1) / len(x)
    stable = 1 / torch.linalg.eigvalsh(second)[-1].item()
    raw = remaining_error(plain, 0.9 * stable)
    whitened = whiten(build("conv1x1", {}, (6, 1, 1), (3, 1, 1)).double(), [x])
    assert remaining_error(whitened, 0.45) < 1e-12
    assert raw > 1e-3


def test_restricted_stitches_say_why_they_are_trained_in_raw_coordinates():
    for name in ("lowrank", "orthogonal", "permutation", "mlp", "dora", "bn_conv1x1_bn"):
        stitch = build(name, {}, (4, 4, 4), (4, 4, 4))
        assert "free weights" in (stitch.explain_raw_coordinates() or ""), name
