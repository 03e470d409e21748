"""Losses against formulas by hand, their gradients, and which losses are flat for which stitches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import LOSSES
from stitch_sweep.losses.base import CombinedLoss, LossContext, LossInputs
from stitch_sweep.losses.cca import cca
from stitch_sweep.losses.flat_losses import (
    StitchProfile,
    chance_level,
    explain_flat_loss,
    weak_loss_warnings,
)
from stitch_sweep.losses.moments import Moments
from stitch_sweep.losses.whitening import inverse_root, singular_vectors
from tests.support.cases import check_all


@pytest.fixture(autouse=True)
def one_thread():
    """The matrices here are too small for several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SHAPES = [(6, 3, 4, 4), (8, 5)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def combined(context: LossContext | None = None, **weights: float) -> CombinedLoss:
    terms = [(name, weight, {}) for name, weight in weights.items()]
    return CombinedLoss(terms, context or LossContext(1.0))


def complete(stitched: torch.Tensor, expected: torch.Tensor, seed: int = 2) -> LossInputs:
    """All inputs of a loss, with a small artificial rest of the receiver and a sender."""
    units, count = int(np.prod(stitched.shape[1:])), len(stitched)
    rest, head = draw(units, 6, seed=seed).to(stitched), draw(6, 4, seed=seed + 1).to(stitched)

    def later(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.flatten(1) @ rest)

    return LossInputs(
        torch.arange(count) % 4,
        stitched,
        expected,
        later(stitched) @ head,
        expected_logits=later(expected) @ head,
        sender_logits=draw(count, 4, seed=seed + 2).to(stitched),
        hints={3: (later(stitched), later(expected))},
    )


def variance(expected: torch.Tensor) -> float:
    """Mean over channels of the variance over all positions, in numpy."""
    channels = np.moveaxis(expected.numpy(), 1, 0).reshape(expected.shape[1], -1)
    return float(channels.var(axis=1).mean())


@settings(max_examples=25)
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
def test_gradients_agree_with_finite_differences(name):
    def check(shape: tuple[int, ...]) -> None:
        expected = draw(*shape, seed=1)
        loss = combined(LossContext(variance(expected)), **{name: 1.0})

        def value(stitched: torch.Tensor) -> torch.Tensor:
            return loss(complete(stitched, expected))[0]

        assert torch.autograd.gradcheck(value, draw(*shape).requires_grad_())

    check_all([(shape,) for shape in (*SHAPES, (9, 7, 2, 1), (5, 6))], check)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cca", {"ridge": 0.0}),
        ("pwcca", {"ridge": 0.0}),
        ("soft_task", {"teacher": "sender", "temperature": 3.0}),
    ],
)
def test_gradients_of_options_agree_with_finite_differences(name, options):
    expected = draw(12, 3, 2, 2, seed=1)
    loss = CombinedLoss([(name, 1.0, options)], LossContext(1.0))
    start = draw(12, 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(complete(s, expected))[0], start)


HADAMARD = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
DEGENERATE = {
    "constant": lambda x: torch.ones_like(x),
    "zero": torch.zeros_like,
    "rank one": lambda x: x[:, :1].expand_as(x),
    "dead channel": lambda x: x * torch.tensor([1.0, 0, 1, 1]),
    "repeated channels": lambda x: x[:, [0, 0, 1, 1]],
    "repeated singular values": lambda x: HADAMARD.repeat(len(x) // 4 + 1, 1)[: len(x)],
    "nearly constant": lambda x: 1e4 + 1e-4 * x,
    "tiny": lambda x: 1e-15 * x,
    "huge": lambda x: 1e9 * x,
    "unlike scales": lambda x: x * torch.tensor([1e-6, 1, 1e3, 1e6]),
}


@pytest.mark.parametrize("name", LOSSES.names())
def test_gradients_of_degenerate_float32_batches_are_finite(name):
    def check(case: str, count: int) -> None:
        broken = DEGENERATE[case]
        start, target = draw(count, 4).float(), draw(count, 4, seed=1).float()
        both = broken(target)
        for stitched, expected in ((broken(start), target), (start, both), (both, both)):
            stitched = stitched.clone().requires_grad_()
            loss = combined(LossContext(variance(expected)), **{name: 1.0})
            value = loss(complete(stitched, expected))[0]
            value.backward()
            assert value.dtype == torch.float32
            assert value.isfinite()
            assert stitched.grad.isfinite().all(), count

    check_all(itertools.product(DEGENERATE, (1, 2, 3, 4, 5, 16)), check)


@pytest.mark.parametrize("name", LOSSES.names())
def test_a_diverged_stitch_gives_a_loss_that_says_so(name):
    stitched = draw(8, 4).float()
    stitched[3, 1] = torch.nan
    value, _ = combined(**{name: 1.0})(complete(stitched, draw(8, 4, seed=1).float()))
    assert not value.isfinite()


@pytest.mark.parametrize("name", sorted({*LOSSES.names()} - {"task"}))
@pytest.mark.parametrize("shape", [(24, 3, 4, 4), (40, 5)])
def test_the_expected_representation_costs_nothing(name, shape):
    expected = draw(*shape)
    options = {"ridge": 0.0} if name in ("cca", "pwcca") else {}
    loss = CombinedLoss([(name, 1.0, options)], LossContext(1.0))
    assert loss(complete(expected, expected))[0].item() == pytest.approx(0, abs=1e-9)


def test_a_ridge_makes_weak_directions_count_less():
    x, y = draw(60, 4), draw(60, 4, seed=1)
    found = Moments.of(x, y + x)
    values = [cca(found, ridge=ridge).item() for ridge in (0.0, 1e-6, 1e-3, 1.0)]
    assert values == sorted(values, reverse=True)
    assert values[1] == pytest.approx(values[0], abs=1e-5)


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(0, 10**6))
def test_inverse_root_of_repeated_eigenvalues(size, seed):
    matrix = torch.eye(size, dtype=torch.float64, requires_grad=True)
    root, rank = inverse_root(4 * matrix, tolerance=1e-12)
    assert rank == size
    weights = draw(size, size, seed=seed)
    (root * weights).sum().backward()
    # d (A^(-1/2)) at A = 4 I is -1/2 4^(-3/2) dA, symmetrized.
    assert torch.allclose(matrix.grad, -(weights + weights.T) / 8)


def test_inverse_root_keeps_the_fewest_that_hold_the_share():
    matrix = torch.diag(torch.tensor([5.0, 3.0, 1.5, 0.5], dtype=torch.float64))
    for share, rank in [(1.0, 4), (0.96, 4), (0.95, 3), (0.8, 2), (0.5, 1), (0.1, 1)]:
        assert inverse_root(matrix, tolerance=1e-12, share=share)[1] == rank


def test_singular_vectors_of_a_wide_matrix():
    assert torch.autograd.gradcheck(
        lambda a: (lambda s, v: (s.sum(), v[:2].abs().sum(dim=1)))(*singular_vectors(a)),
        draw(2, 4).requires_grad_(),
    )


@pytest.mark.parametrize("teacher", ["receiver", "sender"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_task_is_the_divergence_from_the_teacher(teacher, temperature):
    logits, receiver, sender = (3 * draw(5, 4, seed=k) for k in range(3))
    taught = receiver if teacher == "receiver" else sender
    p, q = (np.exp(z.numpy() / temperature) for z in (taught, logits))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    by_hand = temperature**2 * (p * np.log(p / q)).sum() / 5
    options = {"teacher": teacher, "temperature": temperature}
    loss = CombinedLoss([("soft_task", 1.0, options)], LossContext())
    assert loss.teachers == {teacher}
    inputs = LossInputs(
        torch.zeros(5), logits, None, logits, expected_logits=receiver, sender_logits=sender
    )
    assert loss(inputs)[0].item() == pytest.approx(by_hand, rel=1e-9)


def test_soft_task_pulls_as_cross_entropy_with_soft_labels_does():
    logits, taught = draw(5, 4).requires_grad_(), draw(5, 4, seed=1)
    loss = combined(soft_task=1.0)(LossInputs(torch.zeros(5), logits, None, logits, taught))[0]
    (soft,) = torch.autograd.grad(loss, logits)
    by_hand = functional.cross_entropy(logits, taught.softmax(dim=1))
    assert torch.allclose(soft, torch.autograd.grad(by_hand, logits)[0])


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"teacher": "labels"}])
def test_soft_task_refuses_what_makes_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LOSSES.build("soft_task", LossContext(), options=options)


def test_fula_is_the_mean_relative_distance_of_all_layers():
    inputs = complete(draw(6, 3, 2, 2), draw(6, 3, 2, 2, seed=1))
    pairs = [(inputs.stitched, inputs.expected), *inputs.hints.values()]
    distances = [
        np.linalg.norm((s - e).numpy().ravel()) / np.linalg.norm(e.numpy().ravel())
        for s, e in pairs
    ]
    value, _ = combined(fula=1.0)(inputs)
    assert value.item() == pytest.approx(np.mean(distances), rel=1e-12)


def test_fula_at_the_last_layer_has_no_hints():
    stitched, expected = draw(6, 3), draw(6, 3, seed=1)
    value, _ = combined(fula=1.0)(LossInputs(torch.zeros(6), stitched, expected, hints={}))
    assert value.item() == pytest.approx(((stitched - expected).norm() / expected.norm()).item())


def test_leading_rows_are_those_of_everything():
    inputs = complete(draw(6, 3), draw(6, 3, seed=1)).leading(4)
    assert len(inputs.labels) == len(inputs.stitched) == len(inputs.expected) == 4
    assert len(inputs.logits) == len(inputs.expected_logits) == len(inputs.sender_logits) == 4
    assert all(len(side) == 4 for pair in inputs.hints.values() for side in pair)
    few = LossInputs(torch.zeros(6), draw(6, 3)).leading(2)
    assert few.expected is None
    assert few.hints is None


@settings(max_examples=20)
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
    assert combined(fula=1.0).needs_hints
    assert not combined(fula=1.0).needs_logits
    assert not combined(mse=1.0).needs_hints
    assert combined(task=1.0).teachers == set()
    assert combined(cca=1.0).calibration == "affine"
    assert combined(cca=1.0, cka=1.0).calibration == "isotropic"
    assert combined(cca=1.0, task=1.0).calibration == "none"


def test_every_loss_brings_a_learning_rate_for_every_optimizer():
    def check(name: str, optimizer: str) -> None:
        assert 0 < combined(**{name: 1.0}).default_lr(optimizer) <= 1

    check_all(itertools.product(LOSSES.names(), ["SGD", "sgd", "adam", "RMSprop"]), check)


def test_a_sum_takes_the_smallest_learning_rate_of_its_terms():
    alone = [combined(**{name: 1.0}).default_lr("sgd") for name in ("task", "mse")]
    assert combined(task=1.0, mse=1.0).default_lr("sgd") == min(alone)


# Losses that are flat for a stitch


def stitch_of(family: str, inputs: int, channels: int):
    """A stitch of the family at random weights, as a function of its parameters [n, n] or [n]."""
    weights = draw(channels, inputs, seed=7)
    if family == "affine":
        return weights, lambda w, x: torch.einsum("oc,bchw->bohw", w, x) + 0.3
    if family == "orthogonal":

        def turned(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("oc,bchw->bohw", torch.linalg.matrix_exp(w - w.T)[:, :inputs], x)

        return draw(channels, channels, seed=7), turned
    if family == "channel_affine":
        return (
            draw(inputs, seed=7).exp(),
            lambda w, x: w[:, None, None] * x + w.square()[:, None, None],
        )
    if family == "scale":
        return draw(1, seed=7).exp(), lambda w, x: w * x
    return weights, lambda w, x: torch.tanh(torch.einsum("oc,bchw->bohw", w, x))


FAMILIES = [
    ("affine", 3, 3, 12),
    ("affine", 3, 5, 12),
    ("affine", 5, 3, 12),
    ("affine", 1, 3, 12),
    ("affine", 5, 3, 1),
    ("affine", 9, 8, 2),
    ("orthogonal", 3, 3, 12),
    ("orthogonal", 3, 5, 12),
    ("channel_affine", 3, 3, 12),
    ("scale", 3, 3, 12),
    ("other", 3, 3, 12),
    ("other", 3, 1, 12),
    ("other", 3, 3, 3),
]


@pytest.mark.parametrize("loss", sorted({*LOSSES.names()} - {"task", "soft_task", "fula"}))
def test_a_loss_that_cannot_teach_has_no_gradient_and_others_have(loss):
    check_all([(loss, *family) for family in FAMILIES], check_gradient)


def check_gradient(loss: str, family: str, inputs: int, channels: int, images: int) -> None:
    weights, stitch = stitch_of(family, inputs, channels)
    side = 2 if images > 1 else 1
    sender = draw(images, inputs, side, side)
    expected = torch.tanh(
        torch.einsum("oc,bchw->bohw", draw(channels, inputs, seed=3), sender)
    ) + draw(images, channels, side, side, seed=4)
    options = {"ridge": 0.0} if loss in ("cca", "pwcca") else {}
    built = CombinedLoss([(loss, 1.0, options)], LossContext(1.0))
    weights.requires_grad_()
    value, _ = built(LossInputs(torch.zeros(images), stitch(weights, sender), expected))
    (gradient,) = torch.autograd.grad(value, weights)
    profile = StitchProfile(family, inputs, channels, side * side, images)
    reason = explain_flat_loss(loss, profile)
    flat = gradient.abs().max().item() < 1e-9
    # While SVCCA keeps every direction it is CCA; the warning says so.
    if loss == "svcca" and flat and reason is None:
        assert "giving up variance" in weak_loss_warnings(loss, profile)[-1]
        return
    assert (reason is not None) == flat, reason
    if reason is not None:
        assert reason.startswith(f"{loss!r} ")
        assert weak_loss_warnings(loss, profile) == []


def test_a_rank_limit_a_kernel_or_many_outputs_decide_whether_cca_is_flat():
    common = {"positions": 16, "batch": 64}
    assert explain_flat_loss("cca", StitchProfile("affine", 8, 8, **common)) is not None
    assert explain_flat_loss("cca", StitchProfile("affine", 8, 16, **common)) is not None
    assert explain_flat_loss("cca", StitchProfile("affine", 8, 8, rank_limit=4, **common)) is None
    assert (
        explain_flat_loss("cca", StitchProfile("affine", 8, 8, rank_limit=8, **common)) is not None
    )
    # A 2 x 2 kernel sees four places of each channel.
    assert explain_flat_loss("cca", StitchProfile("affine", 8 * 4, 16, **common)) is None
    assert explain_flat_loss("cca", StitchProfile("other", 8, 8, **common)) is None


@pytest.mark.parametrize("loss", ["cca", "pwcca"])
@pytest.mark.parametrize(("batch", "flat"), [(8, True), (9, True), (10, False)])
def test_a_batch_must_have_more_rows_than_channels(loss, batch, flat):
    reason = explain_flat_loss(loss, StitchProfile("affine", 32, 8, 1, batch))
    assert (reason is not None) == flat
    if flat:
        assert "batch_size" in reason


def test_a_stitch_with_nothing_to_train_is_no_pupil():
    profile = StitchProfile("fixed", 8, 8, 4, 2)
    for loss in LOSSES.names():
        assert explain_flat_loss(loss, profile) is None, loss
        assert weak_loss_warnings(loss, profile) == [], loss


@pytest.mark.parametrize("loss", ["task", "soft_task", "mse", "fula"])
def test_losses_that_see_everything_teach_everything(loss):
    for family in ("scale", "channel_affine", "orthogonal", "affine", "other"):
        assert explain_flat_loss(loss, StitchProfile(family, 8, 8, 16, 64)) is None, family


def test_few_rows_are_warned_of_with_what_chance_would_give():
    (found,) = weak_loss_warnings("cca", StitchProfile("affine", 64, 32, 4, 64))
    assert "256 rows" in found
    assert "need 960" in found
    assert f"correlation of {chance_level(256, 32, 32):.2f}" in found
    assert weak_loss_warnings("cca", StitchProfile("affine", 64, 32, 16, 64)) == []
    # Upsampling makes copies, not data.
    (found,) = weak_loss_warnings("cca", StitchProfile("affine", 64, 32, 16, 64, replication=4))
    assert "256 rows" in found
    assert weak_loss_warnings("cka", StitchProfile("affine", 64, 32, 4, 64)) == []


def test_svcca_of_a_full_map_comes_with_a_warning():
    (found,) = weak_loss_warnings("svcca", StitchProfile("affine", 8, 8, 16, 64))
    assert "giving up variance" in found


def test_unknown_families_and_losses_are_refused():
    with pytest.raises(ValueError, match="'round'"):
        StitchProfile("round", 8, 8, 16, 64)
    with pytest.raises(InputError, match="'cc'"):
        explain_flat_loss("cc", StitchProfile("affine", 8, 8, 16, 64))


@pytest.mark.parametrize(("n", "p", "q"), [(400, 50, 50), (400, 20, 80), (300, 120, 240)])
def test_chance_level_is_what_independent_data_give(n, p, q):
    found = cca(Moments.of(draw(n, p), draw(n, q, seed=1))).item()
    assert chance_level(n, p, q) == pytest.approx(found, abs=0.01)


def test_chance_level_with_too_few_rows_is_one():
    assert chance_level(40, 3, 39) == 1
    assert chance_level(4096, 512, 512) == pytest.approx(0.30, abs=0.005)
