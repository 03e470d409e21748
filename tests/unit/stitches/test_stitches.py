"""What each stitch computes, its first weights, its capacity, and the structure of affine stitches."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from stitch_sweep.config.stitch import STARTS, StitchConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import STITCHES
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.stitches.base import AffineStitch
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.capacity import capacity, l1_norm
from stitch_sweep.stitches.resizing import Resize
from stitch_sweep.stitches.storage import load_stitch, pack_stitch
from tests.support.cases import check_all
from tests.support.stitches import (
    AFFINE,
    EVERY_CELL,
    SHAPES,
    build,
    cells_of,
    draw,
    every_stitch,
    every_stitch_of,
    joined_shapes,
)

# --- shapes -------------------------------------------------------------------------------------


@every_stitch
def test_every_stitch_joins_some_shapes(name, options):
    cells = joined_shapes(name, options)
    assert len(cells) >= 2
    anything = set(STITCHES.names()) - {
        "paper", "identity", "affine", "conv3x3", "basic_block", "bottleneck"
    }  # fmt: skip
    if name in anything:
        assert len(cells) == len(SHAPES)
    if name in {"conv3x3", "basic_block", "bottleneck"}:
        with_class_token = [(5, 3), (17, 4)]
        grids = [c for c in SHAPES if min(map(len, c)) > 1 and c[1] not in with_class_token]
        assert cells == grids


@every_stitch
def test_gives_the_receivers_shape(name, options):
    def check(name, options, sender, receiver):
        stitch = build(name, options, sender, receiver)
        for mode in (True, False):
            stitch.train(mode)
            assert stitch(draw(2, *sender, dtype=torch.float32)).shape == (2, *receiver)

    check_all(cells_of(name, options), check)


SIZE = st.integers(1, 9)


@settings(max_examples=60)
@given(
    name=st.sampled_from(["conv1x1", "lowrank", "dora", "mlp", "bn_conv1x1_bn"]),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    sizes=st.tuples(SIZE, SIZE, SIZE, SIZE),
    down=st.sampled_from(["strided", "average", "max"]),
    up=st.sampled_from(["nearest", "bilinear"]),
)
def test_maps_of_any_two_sizes_are_joined(name, channels, sizes, down, up):
    sender, receiver = (channels[0], *sizes[:2]), (channels[1], *sizes[2:])
    stitch = build(name, {"down": down, "up": up}, sender, receiver)
    assert stitch(draw(2, *sender, dtype=torch.float32)).shape == (2, *receiver)


@settings(max_examples=40)
@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3),
    st.booleans(),
)  # fmt: skip
def test_maps_of_every_whole_ratio_are_joined_as_published(c, c2, ratio, h, w, up):
    small, large = (h, w), (ratio * h, ratio * w)
    sender, receiver = ((c, *small), (c2, *large)) if up else ((c, *large), (c2, *small))
    stitch = build("paper", {}, sender, receiver)
    assert stitch(torch.zeros(2, *sender)).shape == (2, *receiver)
    kernel = 1 if up else ratio
    assert capacity(stitch).parameters == c2 * (c * kernel**2 + 1)


@pytest.mark.parametrize(
    ("name", "sender", "receiver", "wanted"),
    [
        ("paper", (3, 6, 6), (3, 4, 4), "maps whose sizes divide evenly, not 6x6 and 4x4"),
        ("paper", (3, 4, 4), (3, 8, 4), "maps whose sizes divide evenly, not 4x4 and 8x4"),
        ("paper", (3, 8, 4), (3, 4, 8), "maps whose sizes divide evenly, not 8x4 and 4x8"),
        ("paper", (3, 4, 4), (7,), "two feature maps"),
        ("paper", (7,), (3, 4, 4), "two feature maps"),
        ("conv3x3", (3, 4, 4), (7,), "two feature maps"),
        ("basic_block", (7,), (7,), "two feature maps"),
        ("bottleneck", (7,), (3, 4, 4), "two feature maps"),
        ("affine", (3, 4, 4), (5, 4, 4), "equally many channels"),
        ("linear", (64, 32, 32), (64, 32, 32), "fewer weights than its 65536 x 65536 = 4,294,967,"),
        ("identity", (3, 4, 4), (5, 4, 4), "equal shapes"),
        ("identity", (3, 4, 4), (3, 2, 2), "equal shapes"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both(name, sender, receiver, wanted):
    with pytest.raises(InputError) as refused:
        build_stitch(name, sender, receiver)
    shown = ["x".join(map(str, shape)) for shape in (sender, receiver)]
    start = f"stitch {name!r} can't join {shown[0]} to {shown[1]}: it needs {wanted}"
    assert str(refused.value).startswith(start)


def test_an_unknown_stitch_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'paper'"):
        build_stitch("papper", (3, 4, 4), (3, 4, 4))


# --- what each computes -------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("n", "m", "kernel", "stride"),
    [(8, 4, 2, 2), (7, 4, 4, 1), (9, 4, 3, 2), (5, 5, 1, 1), (7, 2, 4, 3)],
)
def test_a_strided_window_is_the_smallest_that_leaves_nothing_out(n, m, kernel, stride):
    stitch = build("conv1x1", {"down": "strided"}, (2, n, n), (3, m, m))
    assert (stitch.match.kernel, stitch.match.stride) == ((kernel,) * 2, (stride,) * 2)
    x = draw(1, 2, n, n, dtype=torch.float32).requires_grad_()
    stitch(x).sum().backward()
    assert (x.grad != 0).all()


def test_a_vector_is_a_map_of_one_position():
    x = draw(5, 3, 4, 4)
    pooled = build("conv1x1", {}, (3, 4, 4), (7,)).double()
    by_hand = functional.linear(x.mean(dim=(2, 3)), pooled.matrix(), pooled.offset())
    torch.testing.assert_close(pooled(x), by_hand)
    whole = build("conv1x1", {"down": "strided"}, (3, 4, 4), (7,)).double()
    by_hand = functional.linear(x.flatten(1), whole.matrix(), whole.offset())
    torch.testing.assert_close(whole(x), by_hand)
    spread = build("conv1x1", {}, (3,), (7, 4, 4)).double()
    by_hand = functional.linear(x[:, :, 0, 0], spread.matrix(), spread.offset())
    torch.testing.assert_close(spread(x[:, :, 0, 0]), by_hand[:, :, None, None].expand(5, 7, 4, 4))


def test_linear_may_let_every_value_depend_on_every_other():
    x = draw(5, 3, 4, 4)
    stitch = build("linear", {}, (3, 4, 4), (2, 3, 3)).double()
    weight, bias = stitch.linear.weight, stitch.linear.bias
    assert weight.shape == (18, 48)
    by_hand = functional.linear(x.flatten(1), weight, bias).reshape(5, 2, 3, 3)
    assert torch.equal(stitch(x), by_hand)


def test_conv3x3_has_the_receivers_size_first():
    stitch = build("conv3x3", {"up": "bilinear"}, (3, 4, 4), (2, 7, 7)).double()
    x = draw(2, 3, 4, 4)
    larger = functional.interpolate(x, (7, 7), mode="bilinear")
    by_hand = functional.conv2d(larger, stitch.conv.weight, stitch.conv.bias, padding=1)
    torch.testing.assert_close(stitch(x), by_hand, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3, 9])
def test_lowrank_has_that_rank(rank):
    stitch = build("lowrank", {"rank": rank}, (6, 4, 4), (5, 4, 4)).double()
    assert torch.linalg.matrix_rank(stitch.matrix()) == min(rank, 5)
    x = draw(2, 6, 4, 4)
    by_hand = torch.einsum("oc,bchw->bohw", stitch.matrix(), x) + stitch.offset()[:, None, None]
    torch.testing.assert_close(stitch(x), by_hand)


@pytest.mark.parametrize(("c", "c2"), [(5, 5), (3, 6), (6, 3), (1, 1), (1, 4)])
@pytest.mark.parametrize("scale", [False, True])
def test_orthogonal_stays_orthogonal_in_training(c, c2, scale):
    stitch = build("orthogonal", {"scale": scale}, (c, 4, 4), (c2, 4, 4))
    x, y = (draw(8, k, 4, 4, seed=k, dtype=torch.float32) for k in (c, c2))
    before = stitch.rotation().detach()
    optimizer = torch.optim.Adam(stitch.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        (stitch(x) - y).square().mean().backward()
        optimizer.step()
    q = stitch.rotation().detach()
    gram = q.T @ q if c2 >= c else q @ q.T
    torch.testing.assert_close(gram, torch.eye(min(c, c2)), rtol=0, atol=1e-5)
    assert c == c2 == 1 or not torch.allclose(q, before, atol=1e-2)


def test_orthogonal_reaches_what_procrustes_finds():
    stitch = build("orthogonal", {"scale": True}, (4,), (6,)).double()
    x, y = draw(50, 4), draw(50, 6, seed=1)
    optimizer = torch.optim.LBFGS(stitch.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (stitch(x) - y).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    centred, wanted = x - x.mean(dim=0), y - y.mean(dim=0)
    trace = torch.linalg.svdvals(centred.T @ wanted).sum()
    best = (wanted.square().sum() - trace**2 / centred.square().sum()) / y.numel()
    assert loss().item() == pytest.approx(best.item(), rel=1e-3)


@pytest.mark.parametrize(("c", "c2"), [(5, 5), (3, 6), (6, 3)])
@pytest.mark.parametrize("affine", [False, True])
def test_a_permutation_uses_no_channel_twice_however_it_is_trained(c, c2, affine):
    stitch = build("permutation", {"affine": affine}, (c, 2, 2), (c2, 2, 2))
    if affine:
        optimizer = torch.optim.SGD(stitch.parameters(), lr=0.1)
        (stitch(draw(4, c, 2, 2, dtype=torch.float32)) - 3).square().mean().backward()
        optimizer.step()
        assert len(set(stitch.matrix()[stitch.matrix() != 0].tolist())) > 1
    else:
        assert capacity(stitch).parameters == 0
        assert set(stitch.matrix().flatten().tolist()) <= {0.0, 1.0}
    used = stitch.matrix() != 0
    assert used.sum() == min(c, c2)
    assert used.sum(dim=0).max() == used.sum(dim=1).max() == 1


def test_dora_trains_magnitude_and_direction_and_nothing_else():
    stitch = build("dora", {"rank": 2, "alpha": 3.0}, (5, 4, 4), (4, 4, 4))
    assert [name for name, _ in stitch.named_parameters()] == ["m", "delta_D_A", "delta_D_B"]
    assert torch.equal(stitch.matrix(), stitch.base)
    base = stitch.double().base.clone()
    with torch.no_grad():
        stitch.m.mul_(2)
        stitch.delta_D_B.copy_(draw(4, 2))
    direction = base + 1.5 * stitch.delta_D_B @ stitch.delta_D_A
    by_hand = stitch.m[:, None] * direction / direction.norm(dim=1, keepdim=True)
    torch.testing.assert_close(stitch.matrix(), by_hand)
    assert torch.equal(stitch.base, base)


def test_dora_bears_a_base_that_is_0():
    stitch = build("dora", {}, (3,), (3,))
    stitch.set_map(torch.diag(torch.tensor([1.0, 0.0, 2.0])), torch.zeros(3))
    y = stitch(draw(4, 3, dtype=torch.float32))
    y.square().sum().backward()
    assert (y[:, 1] == 0).all()
    assert all(p.grad.isfinite().all() for p in stitch.parameters())


def test_basic_block_is_what_torchvision_has():
    from torchvision.models.resnet import BasicBlock, Bottleneck

    for name, block in {
        "basic_block": BasicBlock(8, 8),
        "bottleneck": Bottleneck(8, 2),
    }.items():
        stitch = build(name, {}, (8, 5, 5), (8, 5, 5))
        values = list(stitch.state_dict().values())
        theirs = block.state_dict()
        for key, value in zip(list(theirs), values, strict=True):
            assert theirs[key].shape == value.shape
            theirs[key].copy_(value)
        x = draw(3, 8, 5, 5, dtype=torch.float32)
        torch.testing.assert_close(stitch(x), block(x))


def test_a_residual_block_without_relu_may_give_negative_values():
    x = draw(3, 4, 5, 5, dtype=torch.float32)
    assert build("basic_block", {"relu": False}, (4, 5, 5), (4, 5, 5))(x).min() < 0
    assert build("basic_block", {}, (4, 5, 5), (4, 5, 5))(x).min() == 0


def test_mlp_is_two_layers_at_every_position():
    stitch = build("mlp", {"hidden": 6}, (3, 4, 4), (2, 4, 4)).double()
    x = draw(5, 3, 4, 4)
    rows = x.permute(0, 2, 3, 1).reshape(-1, 3)
    hidden = functional.linear(rows, stitch.first.weight.flatten(1), stitch.first.bias).relu()
    by_hand = functional.linear(hidden, stitch.second.weight.flatten(1), stitch.second.bias)
    torch.testing.assert_close(stitch(x), by_hand.reshape(5, 4, 4, 2).permute(0, 3, 1, 2))


@pytest.mark.parametrize("sender", [(6,), (6, 1, 1)])
def test_a_batch_of_one_value_a_channel_can_be_normalised(sender):
    stitch = build("bn_conv1x1_bn", {}, sender, (4,)).train()
    before = copy.deepcopy(stitch.state_dict())
    assert stitch(draw(1, *sender, dtype=torch.float32)).isfinite().all()
    assert all(torch.equal(v, before[k]) for k, v in stitch.state_dict().items())
    stitch(draw(2, *sender, dtype=torch.float32))
    assert not torch.equal(stitch.before.running_mean, before["before.running_mean"])


# --- matching sizes -----------------------------------------------------------------------------

SMALLER = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@settings(max_examples=60)
@given(SMALLER, SMALLER)
def test_pooling_is_what_torch_does(h, w):
    size, target = (h[0], w[0]), (h[1], w[1])
    x = draw(2, 3, *size)
    average = Resize(size, target, "average")(x)
    torch.testing.assert_close(average, functional.adaptive_avg_pool2d(x, target))
    assert torch.equal(Resize(size, target, "max")(x), functional.adaptive_max_pool2d(x, target))
    if h[0] % h[1] == 0 and w[0] % w[1] == 0:
        window = (h[0] // h[1], w[0] // w[1])
        assert torch.equal(average, functional.avg_pool2d(x, window))


@settings(max_examples=60)
@given(SMALLER, SMALLER)
def test_upsampling_is_what_torch_does(h, w):
    size, target = (h[1], w[1]), (h[0], w[0])
    x = draw(2, 3, *size)
    nearest = Resize(size, target, "nearest")(x)
    rows, columns = ([i * n // m for i in range(m)] for m, n in (h, w))
    assert torch.equal(nearest, x[:, :, rows][:, :, :, columns])
    if h[0] % h[1] == 0 and w[0] % w[1] == 0:  # elsewhere torch's float index may round down
        assert torch.equal(nearest, functional.interpolate(x, target, mode="nearest"))
    bilinear = functional.interpolate(x, target, mode="bilinear", align_corners=False)
    torch.testing.assert_close(Resize(size, target, "bilinear")(x), bilinear)


@settings(max_examples=30)
@given(SMALLER, SMALLER, st.sampled_from(["nearest", "bilinear"]))
def test_sums_are_the_transpose_and_copies_its_row_of_ones(h, w, rule):
    resize = Resize((h[1], w[1]), (h[0], w[0]), rule)
    x, y = draw(1, 1, h[1], w[1]), draw(1, 1, h[0], w[0], seed=1)
    forward, back = (resize(x) * y).sum(), (x * resize.sums(y)).sum()
    torch.testing.assert_close(forward, back)
    copies = resize.sums(torch.ones_like(y)).flatten()
    torch.testing.assert_close(resize.copies(), copies)
    # The copies of all values are the whole output.
    assert copies.sum().item() == pytest.approx(h[0] * w[0])


@every_stitch
def test_gradients_are_finite_and_allowed_where_determinism_is_asked_for(name, options):
    seed_everything(0, threads=1)

    def check(name, options, sender, receiver):
        stitch = build(name, options, sender, receiver)
        x = draw(4, *sender, dtype=torch.float32).requires_grad_()
        stitch(x).square().sum().backward()
        assert x.grad is not None
        for parameter in stitch.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()

    check_all(cells_of(name, options), check)


# --- first weights ------------------------------------------------------------------------------


def state(*args, **options) -> dict[str, torch.Tensor]:
    return build(*args, **options).state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@every_stitch
def test_first_weights_are_a_function_of_seed_repeat_name_and_shapes(name, options):
    cell = (name, options, (6, 4, 4), (6, 4, 4))
    first = state(*cell)
    assert equal(first, state(*cell))
    if first:
        assert not equal(first, state(*cell, seed=1))
        assert not equal(first, state(*cell, repeat=1))


def test_stitches_of_one_shape_do_not_share_first_weights():
    same = [state(n, {}, (6, 4, 4), (6, 4, 4))["conv.weight"] for n in ("paper", "conv1x1")]
    assert not torch.equal(*same)


@every_stitch
def test_first_weights_neither_read_nor_move_the_global_generator(name, options):
    cell = (name, options, (6, 4, 4), (6, 4, 4))
    torch.manual_seed(1)
    generator = torch.get_rng_state()
    first = state(*cell)
    assert torch.equal(torch.get_rng_state(), generator)
    torch.manual_seed(2)
    assert equal(state(*cell), first)


@every_stitch
def test_a_stitch_survives_copying_pickling_and_storage(name, options, tmp_path):
    for k, (sender, receiver) in enumerate(joined_shapes(name, options)):
        stitch = build(name, options, sender, receiver, seed=3)
        with torch.no_grad():
            for parameter in stitch.parameters():
                parameter.add_(0.1)
        stitch(draw(4, *sender, dtype=torch.float32))  # updates running statistics, if any
        stitch.eval()
        path = Path(tmp_path / f"{k}.safetensors")
        full = StitchConfig.model_validate({"name": name, **options}).options
        path.write_bytes(pack_stitch(stitch, name, sender, receiver, full, {}))
        x = draw(4, *sender, dtype=torch.float32)
        expected = stitch(x)
        assert torch.equal(load_stitch(path)(x), expected)
        assert torch.equal(copy.deepcopy(stitch)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(stitch))(x), expected)


@every_stitch
def test_on_the_meta_device_everything_is_checked_and_nothing_computed(name, options):
    for start in STARTS:
        for sender, receiver in joined_shapes(name, options):
            found = []
            for device in ("meta", "cpu"):
                try:
                    with torch.device(device):
                        stitch = build(name, options, sender, receiver, start=start)
                except InputError as error:
                    found.append(str(error))
                    continue
                found.append(capacity(stitch))
                assert all(p.device.type == device for p in stitch.parameters())
            assert found[0] == found[1]


# --- capacity and sparsity ----------------------------------------------------------------------

BY_HAND = {
    ("paper", (3, 8, 8), (5, 4, 4)): (5 * 3 * 4 + 5, 16 * 5 * 3 * 4),
    ("paper", (3, 2, 2), (5, 4, 4)): (5 * 3 + 5, 4 * 5 * 3),
    ("conv1x1", (3, 8, 8), (5, 4, 4)): (5 * 3 + 5, 16 * 5 * 3),
    ("conv1x1", (3, 4, 4), (7,)): (3 * 7 + 7, 3 * 7),
    ("conv3x3", (3, 4, 4), (5, 7, 7)): (5 * 27 + 5, 49 * 5 * 27),
    ("bn_conv1x1_bn", (3, 4, 4), (5, 4, 4)): (15 + 2 * 3 + 2 * 5, 16 * 15),
    ("linear", (3, 4, 4), (5,)): (48 * 5 + 5, 48 * 5),
    ("lowrank", (6, 4, 4), (5, 4, 4)): (4 * (6 + 5) + 5, 16 * 4 * (6 + 5)),
    ("orthogonal", (5, 4, 4), (5, 4, 4)): (10 + 5, 16 * 25),
    ("orthogonal", (3, 4, 4), (5, 4, 4)): (15 - 6 + 5, 16 * 15),
    ("permutation", (3, 4, 4), (5, 4, 4)): (0, 0),
    ("affine", (3, 4, 4), (3, 8, 8)): (6, 48),
    ("basic_block", (3, 4, 4), (5, 4, 4)): (9 * 15 + 9 * 25 + 15 + 6 * 5, 16 * (9 * 15 + 9 * 25 + 15)),
    ("bottleneck", (8, 4, 4), (8, 4, 4)): (16 + 36 + 16 + 2 * (2 + 2 + 8), 16 * (16 + 36 + 16)),
    ("mlp", (3, 4, 4), (5, 4, 4)): (15 + 5 + 25 + 5, 16 * (15 + 25)),
    ("dora", (6, 4, 4), (5, 4, 4)): (5 + 4 * (6 + 5), 16 * 30),
    ("identity", (3, 4, 4), (3, 4, 4)): (0, 0),
}  # fmt: skip


@pytest.mark.parametrize("cell", BY_HAND, ids=lambda c: " ".join(map(str, c)))
def test_capacity_is_what_one_counts_by_hand(cell):
    assert capacity(build(cell[0], {}, *cell[1:])) == BY_HAND[cell]


def test_every_capacity_is_counted_by_hand():
    assert {cell[0] for cell in BY_HAND} == set(STITCHES.names())


@pytest.mark.parametrize("counted", ["paper", "conv1x1", "conv3x3", "linear", "mlp"])
def test_capacity_is_what_torchinfo_counts(counted):
    check_all((cell for cell in EVERY_CELL if cell[0] == counted), check_capacity)


def check_capacity(name, options, sender, receiver):
    import torchinfo

    # torchinfo counts a bias as one more product for each position.
    stitch = build(name, options, sender, receiver)
    biases = 0
    for part in stitch.modules():
        if isinstance(part, nn.Conv2d):
            biases += part.out_channels * stitch.match.positions
        elif isinstance(part, nn.Linear):
            biases += part.out_features
    if name in ("paper", "conv1x1", "conv3x3"):
        # Their convolution is called as a function, which torchinfo can't see.
        x = stitch.match.arrange_input(torch.zeros(1, *sender))
        found = torchinfo.summary(stitch.conv, input_data=x, verbose=0)
    else:
        found = torchinfo.summary(stitch, input_data=torch.zeros(1, *sender), verbose=0)
    assert capacity(stitch) == (found.total_params, found.total_mult_adds - biases)


@every_stitch
def test_the_sparsity_penalty_is_the_sum_of_absolute_weights(name, options):
    check_all(cells_of(name, options), check_penalty)


def check_penalty(name, options, sender, receiver):
    stitch = build(name, options, sender, receiver)
    penalty = l1_norm(stitch)
    assert penalty.shape == ()
    if name in ("identity", "permutation"):
        assert penalty == 0
        return
    if isinstance(stitch, AffineStitch) and name != "bn_conv1x1_bn":
        expected = stitch.matrix().abs().sum()
    else:
        kernels = [p for p in stitch.parameters() if p.dim() > 1]
        expected = sum(p.abs().sum() for p in kernels)
    torch.testing.assert_close(penalty, expected)
    if (name == "orthogonal" and 1 in (stitch.inputs, stitch.outputs)) or math.prod(sender) == 0:
        return
    penalty.backward()
    assert any(p.grad is not None and (p.grad != 0).any() for p in stitch.parameters())


def test_a_sparsity_penalty_makes_weights_vanish():
    x = draw(200, 6, dtype=torch.float32)
    y = x[:, [2, 4]] * 2
    weights = {}
    for l1 in (0.0, 0.3):
        stitch = build("linear", {}, (6,), (2,))
        optimizer = torch.optim.Adam(stitch.parameters(), lr=0.02)
        for _ in range(400):
            optimizer.zero_grad()
            noisy = y + draw(200, 2, seed=5, dtype=torch.float32)
            ((stitch(x) - noisy).square().sum(dim=1).mean() + l1 * l1_norm(stitch)).backward()
            optimizer.step()
        weights[l1] = stitch.matrix().detach().abs()
    small = {l1: (w < 0.03).sum().item() for l1, w in weights.items()}
    assert small[0.3] == 10  # all except the two planted weights
    assert small[0.0] < 8


# --- the structure that closed forms use --------------------------------------------------------


@every_stitch_of(AFFINE)
def test_rows_and_targets_say_what_forward_does(name, options):
    check_all(cells_of(name, options, AFFINE), check_rows_and_targets)


def check_rows_and_targets(name, options, sender, receiver):
    stitch = build(name, options, sender, receiver).double().eval()
    x = draw(3, *sender)
    y = stitch(x)
    rows = stitch.rows(x)
    assert rows.shape[1] == stitch.inputs
    outputs = rows @ stitch.matrix().T + stitch.offset()
    copies = stitch.copies()
    if copies is None:
        torch.testing.assert_close(outputs, stitch.target_rows(y), rtol=1e-9, atol=1e-9)
        copies = torch.ones(len(rows) // 3)
    else:
        expected = stitch.target_rows(y) / copies.repeat(3)[:, None]
        torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-9)
    values = stitch.target_values(y)
    assert values.numel() == y.numel()
    assert copies.sum() * 3 == len(values)
    torch.testing.assert_close(stitch.target_rows(y).sum(dim=0), values.sum(dim=0))


def test_configuration_knows_every_start():
    assert get_args(StitchConfig.model_fields["start"].annotation) == STARTS
