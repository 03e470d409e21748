"""Similarity measures against independent implementations, and their mathematical properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orth, subspace_angles
from scipy.spatial import procrustes as scipy_procrustes
from torch import nn

from stitch_sweep.data.images import Data
from stitch_sweep.data.loader import Loader
from stitch_sweep.losses.base import common_calibration
from stitch_sweep.losses.calibration import Calibration
from stitch_sweep.losses.cca import cca, pwcca, svcca
from stitch_sweep.losses.cka import CenteredKernelAlignment, cka, gram, hsic_of_grams
from stitch_sweep.losses.correlation import correlation_sum
from stitch_sweep.losses.cosine import cosine_sum
from stitch_sweep.losses.measures import SimilarityMeasures
from stitch_sweep.losses.moments import Moments
from stitch_sweep.losses.procrustes import procrustes
from stitch_sweep.losses.rows import images, positions
from stitch_sweep.networks.frozen import FrozenNetwork


@pytest.fixture(autouse=True)
def one_thread():
    """The matrices here are too small for several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Pair = tuple[torch.Tensor, torch.Tensor]
TOLERANCE = 1e-6
SIZES = st.tuples(st.integers(12, 60), st.integers(1, 5), st.integers(1, 5))
SEEDS = st.integers(0, 10**6)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def related(n: int, p: int, q: int, seed: int = 0) -> Pair:
    """x [n, p] and y [n, q] that share a part."""
    x = draw(n, p, seed=seed)
    return x, x @ draw(p, q, seed=seed + 1) + draw(n, q, seed=seed + 2) + 3


def rotation(size: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(draw(size, size, seed=seed))[0]


def invertible(size: int, seed: int = 0) -> torch.Tensor:
    """Of condition number at most 10."""
    left, right = rotation(size, seed), rotation(size, seed + 1)
    return left @ torch.linspace(0.3, 3, size, dtype=torch.float64).diag() @ right


def real(networks: tuple[nn.Module, nn.Module], layer: int, data: Data) -> Pair:
    """Representations of the same digits in two trained networks, in float64."""
    loader = Loader(data.train, data.mean, data.std, batch_size=64, seed=0)
    chunks = [chunk.images[: chunk.valid] for chunk in loader.in_order(128)]
    pixels = torch.cat(chunks)[:150]
    a, b = (FrozenNetwork(network).prefix(layer)(pixels).double() for network in networks)
    return a, b


RANDOM = {
    "maps": (draw(7, 3, 5, 5), draw(7, 3, 5, 5, seed=1)),
    "vectors": (draw(33, 17), draw(33, 17, seed=1)),
    "unequal": related(40, 9, 4),
    "wide": related(9, 21, 13),
    "few": (draw(4, 2), draw(4, 2, seed=1)),
    "one channel": related(20, 1, 6),
    "rank-deficient": (draw(50, 3) @ draw(3, 8, seed=1), draw(50, 8, seed=2)),
    "dead channel": (
        draw(30, 4) * torch.tensor([1, 0, 1, 1]),
        draw(30, 4, seed=1) * torch.tensor([1, 1, 2, 0]),
    ),
    "unlike scales": (draw(60, 4) * torch.tensor([1e-4, 1, 1e2, 1e4]), draw(60, 4, seed=1) + 1e3),
}
REAL = [f"layer {layer}" for layer in range(5)]


@pytest.fixture
def pair(request: pytest.FixtureRequest, a: nn.Module, b: nn.Module, digits: Data) -> Pair:
    if request.param in RANDOM:
        return RANDOM[request.param]
    return real((a, b), int(request.param.split()[-1]), digits)


every_pair = pytest.mark.parametrize("pair", [*RANDOM, *REAL], indirect=True)
equal_pairs = pytest.mark.parametrize(
    "pair",
    [*(k for k, (x, y) in RANDOM.items() if x.shape == y.shape), *REAL],
    indirect=True,
)


def rows_of(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    x, y = (positions(side).numpy() for side in pair)
    return x, y


def moments(pair: Pair) -> Moments:
    return Moments.of(*(positions(side) for side in pair))


def basis(rows: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the centered columns, standardized first so that rank has no scale."""
    centered = rows - rows.mean(axis=0)
    spread = centered.std(axis=0)
    alive = spread > 1e-12 * np.abs(rows).max()
    return orth(centered[:, alive] / spread[alive], rcond=1e-7)


def correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.cos(subspace_angles(basis(x), basis(y)))


# Independent implementations


@every_pair
def test_cca_is_the_mean_cosine_of_principal_angles(pair):
    x, y = rows_of(pair)
    assert cca(moments(pair)).item() == pytest.approx(correlations(x, y).mean(), abs=TOLERANCE)


@every_pair
def test_svcca_is_cca_of_the_leading_components(pair):
    reduced = []
    for rows in rows_of(pair):
        centered = rows - rows.mean(axis=0)
        left, singular, _ = np.linalg.svd(centered, full_matrices=False)
        share = np.cumsum(singular**2) / (singular**2).sum()
        reduced.append(left[:, : np.searchsorted(share, 0.99 - 1e-12) + 1])
    expected = np.cos(subspace_angles(*reduced)).mean()
    assert svcca(moments(pair)).item() == pytest.approx(expected, abs=TOLERANCE)


@every_pair
def test_pwcca_weighs_by_what_the_variates_hold_of_the_expected_side(pair):
    x, y = rows_of(pair)
    qx, qy = basis(x), basis(y)
    left, rho, _ = np.linalg.svd(qy.T @ qx, full_matrices=False)
    weights = np.abs((qy @ left).T @ (y - y.mean(axis=0))).sum(axis=1)
    expected = (weights * rho).sum() / weights.sum()
    if (np.diff(np.sort(rho)) < 1e-6).any():
        pytest.skip("repeated correlations: their variates are arbitrary")
    assert pwcca(moments(pair)).item() == pytest.approx(expected, abs=TOLERANCE)


def unbiased_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """Equation 5 of Song et al. 2012, verbatim."""
    n, one = len(k), np.ones(len(k))
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    cross = one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + cross - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def unbiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return unbiased_hsic(k, l) / math.sqrt(unbiased_hsic(k, k) * unbiased_hsic(l, l))


@every_pair
def test_cka_is_the_debiased_one_over_images(pair):
    x, y = (images(side) for side in pair)
    expected = unbiased_cka(x.numpy(), y.numpy())
    assert cka(x, y).item() == pytest.approx(expected, abs=TOLERANCE)


@equal_pairs
def test_correlation_is_numpys_and_leaves_out_what_does_not_vary(pair):
    x, y = rows_of(pair)
    alive = (x.std(axis=0) > 0) & (y.std(axis=0) > 0)
    by_hand = [np.corrcoef(x[:, c], y[:, c])[0, 1] for c in np.flatnonzero(alive)]
    total, channels = correlation_sum(moments(pair))
    assert channels == alive.sum()
    assert (total / channels).item() == pytest.approx(np.mean(by_hand), abs=TOLERANCE)


@equal_pairs
def test_cosine_leaves_out_positions_where_nothing_is_expected(pair):
    x, y = rows_of(pair)
    rows = [(s, e) for s, e in zip(x, y, strict=True) if e.any()]
    by_hand = [s @ e / max(np.linalg.norm(s) * np.linalg.norm(e), 1e-300) for s, e in rows]
    total, count = cosine_sum(*(positions(side) for side in pair))
    assert count == len(rows)
    assert (total / count).item() == pytest.approx(np.mean(by_hand), abs=TOLERANCE)


@equal_pairs
def test_procrustes_is_scipys_disparity(pair):
    x, y = rows_of(pair)
    assert procrustes(moments(pair)).item() == pytest.approx(
        scipy_procrustes(y, x)[2], abs=TOLERANCE
    )


@pytest.mark.parametrize("pair", ["unequal", "one channel", *REAL], indirect=True)
def test_repsim_agrees_where_its_conventions_are_ours(pair):
    """repsim averages PWCCA over both directions; its CKA divides by biased norms, its HSIC doesn't."""
    repsim = pytest.importorskip("repsim")
    x, y = (torch.from_numpy(rows[:2000]) for rows in rows_of(pair))
    both = [x.numpy(), y.numpy()]
    there = Moments.of(x, y)
    back = Moments.of(y, x)
    # repsim counts constant channels in the rank.
    if (x.std(dim=0) > 0).all() and (y.std(dim=0) > 0).all():
        assert cca(there).item() == pytest.approx(repsim.cca(both, "pillai")[0, 1], abs=TOLERANCE)
    mean = (pwcca(there) + pwcca(back)).item() / 2
    assert mean == pytest.approx(repsim.pwcca(both)[0, 1], abs=TOLERANCE)
    small = [rows[:200] for rows in both]
    hsic = repsim.hsic(small, "linear", "song")
    ratio = hsic[0, 1] / math.sqrt(hsic[0, 0] * hsic[1, 1])
    assert cka(x[:200], y[:200]).item() == pytest.approx(ratio, abs=TOLERANCE)


# Invariances, symmetry and range


@settings(max_examples=25)
@given(SIZES, SEEDS)
def test_the_cca_family_of_x_does_not_see_invertible_affine_maps_of_x(size, seed):
    n, p, q = size
    x, y = related(n, p, q, seed)
    mapped = x @ invertible(p, seed) + 5
    for measure in (cca, pwcca):
        before, after = (measure(Moments.of(rows, y)).item() for rows in (x, mapped))
        assert after == pytest.approx(before, abs=1e-7)
    assert cca(Moments.of(y, mapped)).item() == pytest.approx(
        cca(Moments.of(y, x)).item(), abs=1e-9
    )


@settings(max_examples=25)
@given(SIZES, SEEDS, st.floats(1e-3, 1e3))
def test_svcca_cka_and_procrustes_do_not_see_scaled_rotations_and_shifts(size, seed, scale):
    n, p, q = size
    x, y = related(n, p, q, seed)
    mapped = scale * x @ rotation(p, seed) + 7
    for one, other in ((x, mapped), (mapped, x)):
        for measure in (svcca, procrustes):
            before = measure(Moments.of(x, y)).item()
            assert measure(Moments.of(other, y)).item() == pytest.approx(before, abs=1e-7)
        assert cka(one, y).item() == pytest.approx(cka(other, y).item(), abs=1e-9)


@settings(max_examples=25)
@given(st.integers(12, 60), st.integers(1, 5), SEEDS)
def test_correlation_does_not_see_shift_and_positive_scale_of_a_channel(n, c, seed):
    x, y = related(n, c, c, seed)
    mapped = x * torch.linspace(0.01, 100, c) - torch.arange(c)
    values = [correlation_sum(Moments.of(rows, y))[0].item() for rows in (x, mapped)]
    assert values[0] == pytest.approx(values[1], abs=1e-9)


@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(1, 5), SEEDS)
def test_cosine_does_not_see_a_positive_scale_of_each_position(n, c, seed):
    x, y = draw(n, c, seed=seed), draw(n, c, seed=seed + 1)
    scales = draw(n, 1, seed=seed + 2).exp()
    assert cosine_sum(scales * x, y)[0].item() == pytest.approx(cosine_sum(x, y)[0].item())


def test_measures_see_what_they_should():
    x, y = related(200, 4, 4)
    stretched = x * torch.tensor([1.0, 1.0, 1.0, 30.0])
    sheared = x @ invertible(4)
    for measure in (svcca, procrustes):
        values = [measure(Moments.of(rows, y)).item() for rows in (x, stretched)]
        assert abs(values[0] - values[1]) > 1e-3
    assert abs(cka(x, y) - cka(stretched, y)) > 1e-3
    turned = x @ rotation(4)
    for one in (turned, sheared):
        values = [correlation_sum(Moments.of(rows, y))[0].item() for rows in (x, one)]
        assert abs(values[0] - values[1]) > 1e-3
    assert abs(cosine_sum(x + 1, y)[0] - cosine_sum(x, y)[0]) > 1e-3
    # PWCCA sums over channels of the expected side, so rotating them changes it.
    values = [pwcca(Moments.of(x, rows)).item() for rows in (y, y @ rotation(4))]
    assert abs(values[0] - values[1]) > 1e-6


@settings(max_examples=25)
@given(SIZES, SEEDS)
def test_symmetry_and_range(size, seed):
    n, p, q = size
    x, y = draw(n, p, seed=seed), draw(n, q, seed=seed + 1)
    there, back = Moments.of(x, y), Moments.of(y, x)
    for measure in (cca, svcca, procrustes):
        assert measure(there).item() == pytest.approx(measure(back).item(), abs=1e-9)
        assert 0 <= measure(there).item() <= 1
    assert 0 <= pwcca(there).item() <= 1
    assert cka(x, y).item() == pytest.approx(cka(y, x).item(), abs=1e-12)
    assert -1 <= cka(x, y).item() <= 1


def test_cka_of_independent_data_is_0_on_average_and_can_be_below():
    values = [cka(draw(8, 3, seed=2 * s), draw(8, 3, seed=2 * s + 1)).item() for s in range(300)]
    assert min(values) < -0.1
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(300)


@pytest.mark.parametrize("pair", ["maps", "vectors", "rank-deficient", *REAL], indirect=True)
def test_a_representation_is_like_itself(pair):
    measures = SimilarityMeasures()
    measures.add(pair[0], pair[0])
    found = measures.result()
    assert found["mse"] == found["relative_mse"] == 0
    for name in ("cosine", "correlation", "cca", "svcca", "pwcca", "cka"):
        assert found[name] == pytest.approx(1, abs=1e-9)
    assert found["procrustes"] == pytest.approx(0, abs=1e-9)


def test_as_many_rows_as_channels_make_cca_blind():
    x, y = draw(9, 4), draw(9, 8, seed=1)
    assert cca(Moments.of(x, y)).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("wide", [8, 64])
def test_rounding_of_float32_is_not_rank(wide):
    """A stitch from 3 to more channels has rank 3, in spite of rounding errors in its output."""
    x, y = draw(500, 3).float(), draw(500, wide, seed=1).float()
    stitched = x @ draw(3, wide, seed=2).float() + 10
    exact = cca(Moments.of(x.double(), y.double())).item()
    assert cca(Moments.of(stitched, y)).item() == pytest.approx(exact, abs=1e-5)


# Whole sets


@pytest.mark.parametrize("sizes", [(1, 7, 32), (40,), (13, 13, 14)])
@pytest.mark.parametrize("shape", [(3, 4, 4), (5,)])
def test_chunks_give_what_the_whole_gives(sizes, shape):
    x, y = draw(40, *shape) + 100, draw(40, *shape, seed=1)
    y = y + x / 2
    whole, chunked = SimilarityMeasures(), SimilarityMeasures()
    whole.add(x, y)
    for part in zip(x.split(list(sizes)), y.split(list(sizes)), strict=True):
        chunked.add(*part)
    assert chunked.result() == pytest.approx(whole.result(), rel=1e-9, abs=1e-9)


@equal_pairs
def test_what_is_accumulated_is_what_the_functions_say(pair):
    measures = SimilarityMeasures()
    for part in zip(pair[0].split(3), pair[1].split(3), strict=True):
        measures.add(*part)
    found, both = measures.result(), moments(pair)
    assert found["cca"] == pytest.approx(cca(both).item(), abs=1e-9)
    assert found["svcca"] == pytest.approx(svcca(both).item(), abs=1e-9)
    assert found["procrustes"] == pytest.approx(procrustes(both).item(), abs=1e-9)
    assert found["cka"] == pytest.approx(
        unbiased_cka(*(images(s).numpy() for s in pair)), abs=TOLERANCE
    )
    total, channels = correlation_sum(both)
    assert found["correlation"] == pytest.approx((total / channels).item(), abs=1e-9)
    assert found["correlation_left_out"] == len(both.mean_y) - channels
    x, y = rows_of(pair)
    assert found["mse"] == pytest.approx(((x - y) ** 2).mean(), rel=1e-9)
    assert found["relative_mse"] == pytest.approx(found["mse"] / y.var(axis=0).mean(), rel=1e-9)


def test_cka_by_products_of_features_and_by_images_is_one_number():
    x, y = related(60, 30, 20)
    products, by_images = CenteredKernelAlignment(), CenteredKernelAlignment(limit_bytes=10**6)
    for part in zip(x.split(7), y.split(7), strict=True):
        products.add(*part)  # 60 images of 30 units
        by_images.add(part[0].repeat(1, 10), part[1].repeat(1, 10))  # of 300 units
    for found in (products, by_images):
        assert found.blocks == 1
        assert found.result().item() == pytest.approx(unbiased_cka(x.numpy(), y.numpy()), abs=1e-9)


def test_cka_beyond_its_memory_goes_by_blocks_of_images():
    x, y = related(400, 300, 300)
    # 8 * 3 * 300^2 is more than the limit, and 4800 bytes an image leave room for 100.
    measured = CenteredKernelAlignment(limit_bytes=480_000)
    for part in zip(x.split(64), y.split(64), strict=True):
        measured.add(*part)
    assert measured.blocks == 4
    blocks = zip(x.split(100), y.split(100), strict=True)
    hsic = [hsic_of_grams(gram([a]), gram([b])) for a, b in blocks]
    kl, kk, ll = (sum(h[k] for h in hsic) for k in range(3))
    assert measured.result().item() == pytest.approx((kl / (kk * ll).sqrt()).item(), abs=1e-9)
    assert measured.result().item() == pytest.approx(unbiased_cka(x.numpy(), y.numpy()), abs=0.02)


def test_a_small_deviation_from_a_large_mean_is_no_constant():
    """Float64 resolves 0.01 at 1e6 with ten digits."""
    x, y = related(500, 4, 4)
    plain, far = SimilarityMeasures(), SimilarityMeasures()
    for part_x, part_y in zip(x.split(64), y.split(64), strict=True):
        plain.add(part_x, part_y)
        far.add(1e6 + 0.01 * part_x, 1e6 + 0.01 * part_y)
    expected, found = plain.result(), far.result()
    assert found["correlation_left_out"] == 0
    for name in ("correlation", "cca", "svcca", "pwcca", "procrustes", "cka"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [1e6 / 3, 0.1, -7e-5])
def test_a_constant_channel_is_constant_in_any_chunks(value, dtype):
    x, y = (side.to(dtype) for side in related(5000, 3, 3))
    x[:, 1] = value
    measures = SimilarityMeasures()
    for part in zip(x.split(37), y.split(37), strict=True):
        measures.add(*part)
    assert measures.result()["correlation_left_out"] == 1


def test_cka_of_images_sorted_by_class_goes_by_mixed_blocks():
    """Two networks that share nothing but the classes: within a class their rows are independent."""
    classes = torch.arange(10).repeat_interleave(60)
    means = draw(10, 300, seed=0), draw(10, 300, seed=1)
    x = means[0][classes] + 2 * draw(600, 300, seed=2)
    y = means[1][classes] + 2 * draw(600, 300, seed=3)
    limit = 60 * 8 * 600
    exact = unbiased_cka(x.numpy(), y.numpy())
    assert exact > 0.5
    sorted_blocks = CenteredKernelAlignment(limit)
    sorted_blocks.add(x, y)
    assert sorted_blocks.blocks == 10
    assert abs(sorted_blocks.result().item()) < 0.1, "blocks of one class have nothing in common"
    assert cka(x, y, limit).item() == pytest.approx(exact, abs=0.05)


def test_cka_drops_a_last_block_of_under_four_images():
    x, y = related(203, 300, 300)
    two, more = (CenteredKernelAlignment(limit_bytes=480_000) for _ in range(2))
    two.add(x[:200], y[:200])
    more.add(x, y)
    assert more.blocks == two.blocks == 2
    assert more.result() == two.result()


def test_measures_without_a_value_are_nan():
    measures = SimilarityMeasures()
    measures.add(torch.zeros(3, 2), torch.zeros(3, 2))
    found = measures.result()
    assert found["mse"] == 0
    assert found["correlation_left_out"] == 2
    for name in ("relative_mse", "cosine", "correlation", "cca", "svcca", "pwcca", "cka"):
        assert math.isnan(found[name])


def test_a_representation_that_is_not_finite_has_no_measures_but_no_crash():
    measures = SimilarityMeasures()
    measures.add(torch.full((8, 2), torch.nan), draw(8, 2).float())
    assert math.isnan(measures.result()["cca"])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape, not \(3, 2\) and \(3, 4\)"):
        SimilarityMeasures().add(torch.zeros(3, 2), torch.zeros(3, 4))


# Calibration


def error_after(group: str, stitched: torch.Tensor, expected: torch.Tensor) -> float:
    calibration = Calibration(group)
    for part in zip(stitched.split(16), expected.split(16), strict=True):
        calibration.add(*part)
    return (calibration.fit()(stitched) - expected).square().mean().item()


def channels(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bc...,dc->bd...", x, by)


@pytest.mark.parametrize("shape", [(40, 3, 4, 4), (40, 3)])
@pytest.mark.parametrize(
    ("group", "undo"),
    [
        ("scale", lambda x: 7 * x),
        ("scale_shift", lambda x: 7 * x + 1),
        ("channel_affine", lambda x: channels(x, torch.tensor([1.0, 3.0, 9.0]).diag().double())),
        ("isotropic", lambda x: 3 * channels(x, rotation(3)) - 2),
        ("affine", lambda x: channels(x, invertible(3)) + 4),
    ],
)
def test_a_map_of_the_group_is_undone(shape, group, undo):
    expected = draw(*shape)
    assert error_after(group, undo(expected), expected) < 1e-20
    assert error_after("affine", undo(expected), expected) < 1e-20


@pytest.mark.parametrize("pair", ["maps", "vectors", "dead channel", *REAL], indirect=True)
def test_larger_groups_come_closer(pair):
    errors = {
        group: error_after(group, *pair)
        for group in ("none", "scale", "scale_shift", "channel_affine", "isotropic", "affine")
    }
    slack = 1e-9 * errors["none"]
    assert errors["none"] >= errors["scale"] - slack
    assert errors["scale"] >= errors["scale_shift"] - slack
    assert errors["scale_shift"] >= errors["channel_affine"] - slack
    assert errors["scale_shift"] >= errors["isotropic"] - slack
    assert min(errors["channel_affine"], errors["isotropic"]) >= errors["affine"] - slack


@pytest.mark.parametrize("pair", ["maps", "vectors", "dead channel", *REAL], indirect=True)
def test_the_affine_map_is_least_squares_and_the_rotation_procrustes(pair):
    x, y = rows_of(pair)
    design = np.column_stack([x, np.ones(len(x))])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=1e-9)[0]
    assert error_after("affine", *pair) == pytest.approx((residual**2).mean(), abs=1e-9)
    left_over = procrustes(moments(pair)).item() * y.var(axis=0).mean()
    assert error_after("isotropic", *pair) == pytest.approx(left_over, abs=1e-9)


def test_a_calibration_never_mends_a_sign():
    expected = draw(50, 2)
    assert error_after("channel_affine", -expected, expected) == pytest.approx(
        expected.var(dim=0, correction=0).mean().item()
    )


def test_a_calibration_keeps_shape_and_precision():
    calibration = Calibration("isotropic")
    calibration.add(draw(9, 3, 2, 2).float(), draw(9, 3, 2, 2, seed=1).float())
    out = calibration.fit()(draw(5, 3, 2, 2).float())
    assert out.shape == (5, 3, 2, 2)
    assert out.dtype == torch.float32


def test_a_calibration_without_data_is_refused():
    with pytest.raises(ValueError, match="finite"):
        Calibration("affine").fit()
    calibration = Calibration("affine")
    calibration.add(torch.full((4, 2), torch.nan), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="finite"):
        calibration.fit()


@pytest.mark.parametrize(
    ("groups", "common"),
    [
        (["affine"], "affine"),
        (["affine", "isotropic"], "isotropic"),
        (["isotropic", "channel_affine", "affine"], "scale_shift"),
        (["isotropic", "scale"], "scale"),
        (["affine", "none"], "none"),
    ],
)
def test_a_sum_is_blind_to_what_all_its_terms_are_blind_to(groups, common):
    assert common_calibration(groups) == common
