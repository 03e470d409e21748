"""The starts of stitches, and the closed forms that some of them use.

tests/process/stitches/test_optimum.py compares closed forms with long trainings.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stitch_sweep.config.stitch import DATA_STARTS, STARTS
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.evaluation import evaluate
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.stitches import least_squares as accumulation
from stitch_sweep.stitches.base import AffineStitch
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.capacity import capacity
from stitch_sweep.stitches.closed_forms import RIDGE_BELOW, least_squares, procrustes, reduced_rank
from stitch_sweep.stitches.least_squares import has_optimum
from stitch_sweep.stitches.starts import check_start, choose_start, start_stitch
from stitch_sweep.stitches.storage import load_stitch, pack_stitch
from tests.support.cases import check_all
from tests.support.closed_forms import KINDS, OPTIMAL, batches, fitted, inputs, mse
from tests.support.stitches import (
    build,
    cells_for,
    cells_of,
    draw,
    every_stitch,
    every_stitch_of,
)

every_kind = pytest.mark.parametrize("kind", KINDS)


# --- least squares ------------------------------------------------------------------------------


@every_kind
def test_of_all_solutions_it_takes_the_smallest_for_standardized_channels(kind):
    stitch = build("linear", {}, (6,), (3,)).double()
    x, y = inputs(kind, 20, 6), draw(20, 3, seed=1)
    start_stitch(stitch, "least_squares", batches(x, y))
    centered = (x - x.mean(dim=0)).numpy()
    deviations = np.where(np.ptp(x.numpy(), axis=0) > 0, centered.std(axis=0), np.inf)
    standardized = np.linalg.pinv(centered / deviations, rcond=1e-10) @ (y - y.mean(dim=0)).numpy()
    by_hand = standardized / deviations[:, None]
    np.testing.assert_allclose(stitch.matrix().detach().numpy(), by_hand.T, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rank", [2, 5])
def test_the_scales_of_channels_cost_nothing_of_what_they_explain(rank):
    """Scales from 1e-3 to 1e3; the optimum is that of the same channels with scale 1."""
    rows, y = draw(4000, 5), draw(4000, 5, seed=1)
    y += rows @ draw(5, 5, seed=2)
    scales = torch.logspace(-3, 3, 5, dtype=torch.float64)
    stitch = build("linear", {}, (5,), (5,))
    plain, scaled = (fitted(stitch, x, y) for x in (rows, rows * scales))
    optimum = reduced_rank(plain.moments, rank).error
    found = reduced_rank(scaled.moments, rank, RIDGE_BELOW)
    assert found.error == pytest.approx(optimum, rel=1e-9)
    if rank == 5:
        start_stitch(stitch, "least_squares", batches((rows * scales).float(), y.float()))
        assert mse(stitch.double(), rows * scales, y) * y.numel() == pytest.approx(
            optimum, rel=1e-4
        )


def test_least_squares_with_fewer_images_than_inputs_fits_them_all():
    stitch = build("linear", {}, (30,), (3,)).double()
    x, y = draw(12, 30), draw(12, 3, seed=1)
    start_stitch(stitch, "least_squares", batches(x, y))
    assert mse(stitch, x, y) == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("share", [1e-4, 1e-6, 1e-7])
def test_what_float32_weights_cannot_hold_gets_a_ridge_and_nothing_else_does(share):
    x, y = draw(500, 4), draw(500, 2, seed=1)
    x[:, 3] = x[:, 0] + share * x[:, 3]  # their difference explains a part of y
    y[:, 0] += draw(500, 4)[:, 3]
    stitch = build("linear", {}, (4,), (2,))
    fit = fitted(stitch, x, y)
    exact, kept = least_squares(fit.moments), fit.solution()
    eigenvalues = torch.linalg.eigvalsh(fit.moments.xx)
    if eigenvalues[0] > RIDGE_BELOW * eigenvalues[-1]:
        assert torch.equal(exact.weight, kept.weight)
    else:
        assert kept.weight.abs().max() < exact.weight.abs().max()
    start_stitch(stitch, "least_squares", batches(x.float(), y.float()))
    # In both cases, storing the weights in float32 costs almost nothing of what they explain.
    assert mse(stitch.double(), x, y) * y.numel() == pytest.approx(kept.error, rel=1e-2)


@every_stitch_of(OPTIMAL)
def test_the_optimum_of_what_a_stitch_can_do_is_0(name, options):
    def check(name, options, sender, receiver):
        teacher = build(name, options, sender, receiver, seed=9).double().eval()
        x = draw(40, *sender)
        with torch.no_grad():
            y = teacher(x)
        assert fitted(teacher, x, y).optimum() == pytest.approx(0, abs=1e-12)

    check_all(cells_of(name, options, OPTIMAL), check)


@every_stitch_of(cells_for("least_squares"))
def test_what_least_squares_sets_has_the_error_it_says(name, options):
    check_all(cells_of(name, options, cells_for("least_squares")), check_error)


def check_error(name, options, sender, receiver):
    stitch = build(name, options, sender, receiver).double()
    x, y = draw(30, *sender), draw(30, *receiver, seed=1)
    fit = start_stitch(stitch, "least_squares", batches(x, y))
    solved = fit.solution()
    # Batch normalization adds eps to a variance of 0; there is no other loss of precision.
    assert mse(stitch, x, y) * y.numel() == pytest.approx(solved.error, rel=1e-8, abs=1e-8)
    if has_optimum(stitch):
        assert fit.optimum() * y.numel() == pytest.approx(solved.error, rel=1e-10)


def test_the_optimum_does_not_depend_on_batches():
    stitch = build("paper", {}, (3, 8, 8), (5, 4, 4))
    x, y = draw(12, 3, 8, 8), draw(12, 5, 4, 4, seed=1)
    values = [fitted(stitch, x, y, size).optimum() for size in (1, 5, 12)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-12)


def test_moments_are_bounded_in_memory(monkeypatch):
    stitch = build("conv3x3", {}, (3, 4, 4), (2, 4, 4))
    x, y = draw(12, 3, 4, 4), draw(12, 2, 4, 4, seed=1)
    whole = fitted(stitch, x, y, 12).moments
    seen = []
    moments_of = accumulation._moments_of

    def counted(stitch, x, y):
        seen.append(len(x))
        return moments_of(stitch, x, y)

    monkeypatch.setattr(accumulation, "CHUNK_VALUES", 2 * 16 * 27 + 5)
    monkeypatch.setattr(accumulation, "_moments_of", counted)
    parts = fitted(stitch, x, y, 12).moments
    assert seen == [2] * 6
    for key in vars(whole):
        torch.testing.assert_close(
            torch.as_tensor(getattr(parts, key)), torch.as_tensor(getattr(whole, key))
        )


# --- limited rank -------------------------------------------------------------------------------


def reduced_rank_by_numpy(x: np.ndarray, y: np.ndarray, rank: int) -> tuple[float, float]:
    """Errors of reduced-rank regression (on fitted values) and of the truncated full solution."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    full = np.linalg.pinv(x) @ y
    _, _, vh = np.linalg.svd(x @ full, full_matrices=False)
    u, s, wh = np.linalg.svd(full, full_matrices=False)
    maps = full @ vh[:rank].T @ vh[:rank], (u[:, :rank] * s[:rank]) @ wh[:rank]
    best, truncated = (float(((x @ w - y) ** 2).sum()) for w in maps)
    return best, truncated


@settings(max_examples=40)
@given(
    st.integers(2, 6), st.integers(2, 6), st.integers(1, 5), st.integers(0, 10**6), st.booleans()
)
def test_limited_rank_is_reduced_rank_regression_not_a_truncated_svd(d, c, rank, seed, dead):
    x = draw(60, d, seed=seed) @ torch.diag(torch.logspace(0, 2, d, dtype=torch.float64))
    y = x @ draw(d, c, seed=seed + 1) + 30 * draw(60, c, seed=seed + 2)
    if dead:
        x[:, 0] = 3.0
    best, truncated = reduced_rank_by_numpy(x.numpy(), y.numpy(), rank)
    stitch = build("lowrank", {"rank": rank}, (d,), (c,)).double()
    fit = start_stitch(stitch, "least_squares", batches(x, y, 13))
    assert torch.linalg.matrix_rank(stitch.matrix()) <= rank
    assert fit.optimum() * y.numel() == pytest.approx(best, rel=1e-7)
    assert mse(stitch, x, y) * y.numel() == pytest.approx(best, rel=1e-7)
    assert best <= truncated * (1 + 1e-9)


def test_a_truncated_svd_is_worse():
    scale = torch.tensor([10.0, 1.0, 1.0, 0.01], dtype=torch.float64)
    x, y = draw(200, 4) * scale, draw(200, 4)
    y = 3 * y + 0.01 * draw(200, 4, seed=1)  # the weakest input has the largest weight
    best, truncated = reduced_rank_by_numpy(x.numpy(), y.numpy(), 1)
    assert truncated > 1.05 * best
    fit = fitted(build("lowrank", {"rank": 1}, (4,), (4,)), x, y)
    assert fit.optimum() * y.numel() == pytest.approx(best, rel=1e-9)


def test_full_rank_limits_nothing():
    moments = fitted(build("linear", {}, (4,), (6,)), draw(50, 4), draw(50, 6, seed=1)).moments
    full = least_squares(moments)
    for rank in (4, 5, 9):
        torch.testing.assert_close(reduced_rank(moments, rank).weight, full.weight)


# --- procrustes ---------------------------------------------------------------------------------


def test_procrustes_between_equal_widths_is_scipys():
    x, y = draw(50, 5) + 3, draw(50, 5, seed=1) - 2
    stitch = build("conv1x1", {}, (5,), (5,)).double()
    start_stitch(stitch, "procrustes", batches(x, y))
    centred, wanted = (v.numpy() - v.numpy().mean(axis=0) for v in (x, y))
    rotation, trace = scipy.linalg.orthogonal_procrustes(centred, wanted)
    np.testing.assert_allclose(stitch.matrix().detach().numpy(), rotation.T, atol=1e-10)
    torch.testing.assert_close(stitch(x).mean(dim=0), y.mean(dim=0))
    scaled = build("orthogonal", {"scale": True}, (5,), (5,)).double()
    start_stitch(scaled, "procrustes", batches(x, y))
    assert scaled.scale.item() == pytest.approx(trace / (centred**2).sum(), rel=1e-6)


@pytest.mark.parametrize(("d", "c"), [(4, 7), (7, 4), (5, 5)])
def test_procrustes_maximises_the_trace_between_any_widths(d, c):
    x, y = draw(50, d), draw(50, c, seed=1)
    moments = fitted(build("linear", {}, (d,), (c,)), x, y).moments
    weight = procrustes(moments).weight
    gram = weight.T @ weight if c >= d else weight @ weight.T
    torch.testing.assert_close(gram, torch.eye(min(c, d), dtype=torch.float64))
    trace = (weight.T * moments.xy).sum()
    assert trace.item() == pytest.approx(torch.linalg.svdvals(moments.xy).sum().item())
    for seed in range(50):
        u, _, vh = torch.linalg.svd(draw(c, d, seed=seed), full_matrices=False)
        assert ((u @ vh).T * moments.xy).sum() < trace


@pytest.mark.parametrize(("d", "c"), [(5, 5), (4, 7)])
def test_a_planted_rotation_is_found(d, c):
    rotation = torch.linalg.qr(draw(max(c, d), max(c, d))).Q[:c, :d]
    x = draw(60, d)
    y = x @ rotation.T + 1.5
    for name in ("orthogonal", "linear", "dora", "bn_conv1x1_bn"):
        stitch = build(name, {}, (d,), (c,)).double()
        start_stitch(stitch, "procrustes", batches(x, y))
        # The base of the angles and the planted map are float64.
        torch.testing.assert_close(stitch.matrix().detach(), rotation, rtol=1e-6, atol=1e-6)
        assert mse(stitch, x, y) < 1e-12


def test_rotations_into_fewer_channels_have_no_optimum():
    stitch = build("orthogonal", {}, (6,), (4,))
    assert not has_optimum(stitch)
    with pytest.raises(InputError, match="no closed form for the squared error"):
        check_start(stitch, "least_squares")
    with pytest.raises(ValueError, match="no closed form"):
        fitted(stitch, draw(9, 6), draw(9, 4)).optimum()


# --- permutations -------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 10**6))
def test_a_planted_permutation_is_found_whatever_the_scale(d, c, seed):
    x = draw(80, d, 2, 2, seed=seed)
    order = torch.randperm(max(c, d), generator=torch.Generator().manual_seed(seed))
    y = draw(80, c, 2, 2, seed=seed + 1)
    pairs = [(k, int(order[k])) for k in range(c) if order[k] < d]
    for k, source in pairs:
        y[:, k] = x[:, source] * (k + 1) + 5 + 0.1 * y[:, k]
    for name, options in (("permutation", {}), ("permutation", {"affine": True}), ("conv1x1", {})):
        stitch = build(name, options, (d, 2, 2), (c, 2, 2))
        start_stitch(stitch, "permutation", batches(x, y))
        weight = stitch.matrix()
        assert all(weight[k, source] == 1 for k, source in pairs)
        assert weight.sum() == min(c, d)
        assert (weight.sum(dim=0) <= 1).all()
        assert (weight.sum(dim=1) <= 1).all()
        assert (stitch.offset() == 0).all()


@pytest.mark.parametrize(("d", "c"), [(4, 4), (3, 4), (5, 4)])
@pytest.mark.parametrize("affine", [False, True])
def test_no_permutation_beats_the_one_of_least_squares(d, c, affine):
    from itertools import permutations

    x, y = draw(40, d).relu(), draw(40, c, seed=1).relu() + 0.2
    y[:, 1] += 2 * x[:, 2]
    stitch = build("permutation", {"affine": affine}, (d,), (c,)).double()
    fit = start_stitch(stitch, "least_squares", batches(x, y))
    best = np.inf
    padded = torch.cat([x, torch.zeros(40, max(0, c - d), dtype=x.dtype)], dim=1).numpy()
    for chosen in permutations(range(padded.shape[1]), c):
        picked = padded[:, list(chosen)]
        if affine:
            error = 0.0
            for k in range(c):
                design = np.stack([picked[:, k], np.ones(40)], axis=1)
                fit_k = np.linalg.lstsq(design, y[:, k].numpy(), rcond=None)[0]
                error += ((design @ fit_k - y[:, k].numpy()) ** 2).sum()
        else:
            error = ((picked - y.numpy()) ** 2).sum()
        best = min(best, error)
    assert fit.optimum() * y.numel() == pytest.approx(best, rel=1e-9)
    assert mse(stitch, x, y) * y.numel() == pytest.approx(best, rel=1e-6)


# --- identity, and starts in general ------------------------------------------------------------


@every_stitch_of(cells_for("identity"))
def test_a_stitch_that_starts_as_the_identity_copies_bit_for_bit(name, options):
    check_all(cells_of(name, options, cells_for("identity")), check_identity)


def check_identity(name, options, sender, receiver):
    stitch = build(name, options, sender, receiver, start="identity")
    x = draw(3, *sender, dtype=torch.float32)
    if options.get("relu", name in ("basic_block", "bottleneck")):
        x = x.relu()
    for mode in (True, False):
        y = stitch.train(mode)(x)
        if sender == receiver:
            assert torch.equal(y, x)
        else:  # the stitch only matches sizes
            matched = build("conv1x1", _sizes(options), sender, receiver, start="identity")(x)
            torch.testing.assert_close(y, matched)


def _sizes(options: dict) -> dict:
    return {key: value for key, value in options.items() if key in ("down", "up")}


def test_every_stitch_that_can_copies():
    assert {cell[0] for cell in cells_for("identity")} == set(STITCHES.names()) - {
        "mlp", "bn_conv1x1_bn"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sender", "receiver", "why"),
    [
        ("paper", (4, 4, 4), (5, 4, 4), "it maps 4 values to 5"),
        ("paper", (4, 4, 4), (4, 2, 2), "its kernel is 2x2, and copying needs 1x1"),
        ("conv1x1", (4, 4, 4), (3, 2, 2), "it maps 4 values to 3"),
        ("conv3x3", (4, 4, 4), (3, 4, 4), "it maps 4 channels to 3"),
        ("linear", (4,), (5,), "it maps 4 values to 5"),
        ("linear", (2, 4, 4), (8, 2, 2), "the shapes differ"),
        (
            "lowrank",
            (6, 4, 4),
            (6, 4, 4),
            "such a map has rank 6, and the stitch has rank 4; set rank to 6",
        ),
        ("mlp", (4,), (4,), "it is not an affine map"),
        ("bn_conv1x1_bn", (4, 4, 4), (4, 4, 4), "in training it normalizes by the batch"),
        ("basic_block", (4, 4, 4), (5, 4, 4), "its shortcut changes the number of channels"),
    ],
)
def test_what_cannot_copy_says_why(name, sender, receiver, why):
    with pytest.raises(InputError) as refused:
        build_stitch(name, sender, receiver, start="identity")
    shown = ["x".join(map(str, shape)) for shape in (sender, receiver)]
    expected = f"stitch {name!r} can't start as the identity from {shown[0]} to {shown[1]}: {why}"
    assert str(refused.value).startswith(expected)


@pytest.mark.parametrize(
    ("name", "start", "why"),
    [
        ("mlp", "least_squares", "it is not an affine map"),
        ("basic_block", "procrustes", "it is not an affine map"),
        ("identity", "least_squares", "it is the identity already"),
        ("affine", "permutation", "it doesn't mix channels"),
        ("permutation", "procrustes", "a rotation isn't a permutation"),
        (
            "lowrank",
            "procrustes",
            "such a map has rank 6, and the stitch has rank 4; set rank to 6",
        ),
    ],
)
def test_what_has_no_such_closed_form_says_why_without_data(name, start, why):
    with pytest.raises(InputError) as refused, torch.device("meta"):
        build_stitch(name, (6, 4, 4), (6, 4, 4), start=start)
    expected = f"stitch {name!r} can't start as {start!r} from 6x4x4 to 6x4x4: {why}"
    assert str(refused.value) == expected


def test_rows_that_are_too_long_have_no_closed_form():
    with torch.device("meta"):
        stitch = build("linear", {}, (64, 16, 16), (10,))
        assert not has_optimum(stitch)
        with pytest.raises(InputError, match="16384 values, and closed forms are for at most 8192"):
            check_start(stitch, "least_squares")


def test_an_unknown_start_and_no_images_are_refused():
    stitch = build("linear", {}, (4,), (4,))
    with pytest.raises(InputError, match="did you mean 'procrustes'"):
        check_start(stitch, "procrust")
    with pytest.raises(InputError, match="needs training images"):
        start_stitch(stitch, "procrustes", [])


@every_stitch
def test_a_start_repeats_bit_for_bit_and_is_stored_and_trained(name, options, tmp_path):
    for start in STARTS:
        for _, _, sender, receiver in cells_of(name, options, cells_for(start))[:3]:
            x = draw(20, *sender, dtype=torch.float32)
            y = draw(20, *receiver, seed=1, dtype=torch.float32)
            outline = build(name, options, sender, receiver)
            chosen = choose_start(outline, start)
            one, other = (
                build(name, options, sender, receiver, start=start, seed=seed)
                for seed in ((3, 3) if chosen == "random" or name == "dora" else (3, 4))
            )
            for stitch in (one, other):
                fit = start_stitch(stitch, start, batches(x, y))
                assert (fit is not None) == (chosen in DATA_STARTS)
                stitch.eval()
            if isinstance(one, AffineStitch):
                # The weights before a start from data don't matter.
                assert torch.equal(one.matrix(), other.matrix())
                assert torch.equal(one.offset(), other.offset())
            path = tmp_path / "stitch.safetensors"
            path.write_bytes(pack_stitch(one, name, sender, receiver, options, {}))
            assert torch.equal(load_stitch(path)(x), one(x))
            one.train()
            if capacity(one).parameters:
                one(x).square().sum().backward()
            assert all(p.grad.isfinite().all() for p in one.parameters() if p.grad is not None)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("down", "up"), [("average", "nearest"), ("strided", "bilinear")])
def test_dora_starts_as_its_base_whatever_that_is(start, down, up):
    for sender, receiver in [
        ((4, 4, 4), (4, 4, 4)),
        ((4, 7, 7), (6, 4, 4)),
        ((6, 4, 4), (4, 9, 4)),
    ]:
        options = {"down": down, "up": up}
        if build("conv1x1", options, sender, receiver).explain_start_refusal(start) is not None:
            continue
        x, y = draw(20, *sender, dtype=torch.float32), draw(20, *receiver, seed=1)
        dora, base = (build(n, options, sender, receiver, start=start) for n in ("dora", "conv1x1"))
        for stitch in (dora, base):
            start_stitch(stitch, start, batches(x, y.float()))
        assert torch.equal(dora.matrix(), dora.base)
        if start != "random":
            assert torch.equal(dora(x), base(x))


def test_dora_is_no_affine_family_with_a_closed_form():
    assert not has_optimum(build("dora", {}, (4,), (4,)))
    assert not has_optimum(build("mlp", {}, (4,), (4,)))
    assert not has_optimum(build("identity", {}, (4,), (4,)))


# --- with networks ------------------------------------------------------------------------------


def representations(network: FrozenNetwork, layer: int, loader: Loader) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([network.prefix(layer)(c.images)[: c.valid] for c in loader.in_order(256)])


@pytest.mark.parametrize(
    "name",
    ["paper", "conv1x1", "conv3x3", "bn_conv1x1_bn", "affine", "orthogonal", "permutation", "dora"],
)
def test_a_network_stitched_to_itself_is_itself_by_least_squares(a, digits, name):
    network = FrozenNetwork(a)
    train = Loader(digits.train, digits.mean, digits.std, batch_size=32, seed=0)
    test = Loader(digits.test, digits.mean, digits.std, batch_size=32, seed=0)
    own = evaluate(a, test).accuracy
    for layer in range(len(network.layer_names)):
        x = representations(network, layer, train)
        stitch = build(name, {}, tuple(x.shape[1:]), tuple(x.shape[1:]))
        start_stitch(stitch, "least_squares", batches(x, x, 64))
        joined = torch.nn.Sequential(network.prefix(layer), stitch, network.suffix(layer)).eval()
        assert evaluate(joined, test).accuracy == pytest.approx(own, abs=0.001), layer
        if name != "permutation":
            assert capacity(stitch).parameters > 0
