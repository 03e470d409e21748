from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stitch_sweep.losses import CombinedLoss, LossContext, LossInputs
from stitch_sweep.registry import LOSSES

SHAPES = [(6, 3, 4, 4), (8, 5)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def combined(context: LossContext | None = None, **weights: float) -> CombinedLoss:
    terms = [(name, weight, {}) for name, weight in weights.items()]
    return CombinedLoss(terms, context or LossContext(1.0))


def variance(expected: torch.Tensor) -> float:
    """Mean over channels of the variance over all positions, in numpy."""
    channels = np.moveaxis(expected.numpy(), 1, 0).reshape(expected.shape[1], -1)
    return float(channels.var(axis=1).mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(2, 7), st.integers(0, 10**6))
def test_task_is_cross_entropy(count, classes, seed):
    logits = 10 * draw(count, classes, seed=seed)
    labels = torch.arange(count) % classes
    z = logits.numpy()
    z = z - z.max(axis=1, keepdims=True)
    by_hand = np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(count), labels.numpy()])
    total, terms = combined(task=1.0)(LossInputs(labels, logits, logits=logits))
    assert total.item() == pytest.approx(by_hand, rel=1e-12)
    assert list(terms) == ["task"]


@pytest.mark.parametrize("shape", SHAPES)
def test_mse_is_the_squared_distance_per_position_in_units_of_the_variance(shape):
    stitched, expected = draw(*shape), draw(*shape, seed=1)
    positions = shape[0] * int(np.prod(shape[2:]))
    by_hand = ((stitched.numpy() - expected.numpy()) ** 2).sum() / positions / 0.7
    loss = combined(LossContext(0.7), mse=1.0)
    total, _ = loss(LossInputs(torch.zeros(shape[0]), stitched, expected))
    assert total.item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_mse_of_the_best_constant_is_the_number_of_channels(shape):
    expected = draw(*shape) * torch.linspace(0.5, 3, shape[1]).reshape(-1, *[1] * len(shape[2:]))
    mean = expected.mean(dim=[0, *range(2, len(shape))], keepdim=True).expand(shape)
    loss = combined(LossContext(variance(expected)), mse=1.0)
    total, _ = loss(LossInputs(torch.zeros(shape[0]), mean, expected))
    assert total.item() == pytest.approx(shape[1], rel=1e-12)


@pytest.mark.parametrize("scale", [100.0, 1e-6])
@pytest.mark.parametrize("shape", SHAPES)
def test_mse_does_not_depend_on_the_scale_of_the_layer(shape, scale):
    stitched, expected = draw(*shape), draw(*shape, seed=1)
    values = [
        combined(LossContext(variance(factor * expected)), mse=1.0)(
            LossInputs(torch.zeros(shape[0]), factor * stitched, factor * expected)
        )[0].item()
        for factor in (1.0, scale)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_mse_to_a_constant_representation_is_finite():
    loss = combined(LossContext(0.0), mse=1.0)
    total, _ = loss(LossInputs(torch.zeros(4), torch.ones(4, 2), torch.zeros(4, 2)))
    assert total.item() == 2.0


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_agree_with_finite_differences(name, shape):
    expected, head = draw(*shape, seed=1), draw(int(np.prod(shape[1:])), 4, seed=2)
    labels = torch.arange(shape[0]) % 4
    loss = combined(LossContext(variance(expected)), **{name: 1.0})

    def value(stitched: torch.Tensor) -> torch.Tensor:
        return loss(LossInputs(labels, stitched, expected, stitched.flatten(1) @ head))[0]

    assert torch.autograd.gradcheck(value, draw(*shape).requires_grad_())


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_a_sum_is_weighted_and_its_terms_are_not(task, mse):
    stitched, expected, logits = draw(6, 3), draw(6, 3, seed=1), draw(6, 5, seed=2)
    inputs = LossInputs(torch.arange(6) % 5, stitched, expected, logits)
    total, terms = combined(task=task, mse=mse)(inputs)
    alone = {name: combined(**{name: 1.0})(inputs)[0].item() for name in ("task", "mse")}
    assert {name: value.item() for name, value in terms.items()} == alone
    assert total.item() == pytest.approx(task * alone["task"] + mse * alone["mse"], rel=1e-12)


def test_what_a_sum_needs_is_what_a_term_needs():
    assert combined(task=1.0).needs_logits
    assert not combined(mse=1.0).needs_logits
    assert combined(mse=1.0, task=1.0).needs_logits
    assert CombinedLoss.needs_expected(["task", "mse"])
    assert not CombinedLoss.needs_expected(["task"])


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("optimizer", ["SGD", "sgd", "adam", "RMSprop"])
def test_every_loss_brings_a_learning_rate_for_every_optimizer(name, optimizer):
    assert 0 < combined(**{name: 1.0}).default_lr(optimizer) <= 1


def test_a_sum_takes_the_smallest_learning_rate_of_its_terms():
    alone = [combined(**{name: 1.0}).default_lr("sgd") for name in ("task", "mse")]
    assert combined(task=1.0, mse=1.0).default_lr("sgd") == min(alone)
