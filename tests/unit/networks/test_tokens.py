"""Sequences of tokens between feature maps, vectors and other sequences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import LOSSES
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.data.images import Data
from stitch_sweep.losses.base import CombinedLoss, LossContext, LossInputs
from stitch_sweep.losses.calibration import Calibration
from stitch_sweep.losses.measures import SimilarityMeasures
from stitch_sweep.networks.families.building import build
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.plan.prepare import prepare
from stitch_sweep.stitches.building import build_stitch
from stitch_sweep.stitches.capacity import capacity
from stitch_sweep.stitches.shapes import Shape, as_map, channel_axis, has_class_token
from tests.support.networks_training import finish_training, start_training


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- what a sequence is -------------------------------------------------------------------------


def test_the_number_of_tokens_tells_patches_and_class_token(subtests):
    for shape, grid, class_token in (
        ((1, 7), (7, 1, 1), False),
        ((2, 7), (7, 1, 1), True),
        ((4, 7), (7, 2, 2), False),
        ((5, 7), (7, 2, 2), True),
        ((64, 7), (7, 8, 8), False),
        ((65, 7), (7, 8, 8), True),
        ((197, 768), (768, 14, 14), True),
    ):
        with subtests.test(f"{shape}, {grid}, {class_token}"):
            assert as_map(shape) == grid
            assert has_class_token(shape) == class_token
            assert channel_axis(shape) == 1


def test_other_numbers_of_tokens_are_refused(subtests):
    for tokens in (3, 6, 7, 8, 12, 198):
        with subtests.test(str(tokens)):
            with pytest.raises(
                InputError, match=f"a sequence of {tokens} tokens.*'linear' and 'identity'"
            ):
                build_stitch("conv1x1", (tokens, 4), (4, 4))
            build_stitch("linear", (tokens, 4), (4, 4))
            build_stitch("identity", (tokens, 4), (tokens, 4))


def test_no_number_is_read_in_two_ways():
    squares = {g * g for g in range(1, 200)}
    assert not squares & {n + 1 for n in squares}


# --- the conversion, written out ----------------------------------------------------------------


def as_positions(x: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the class token [B, D] or None, and the grid of the other tokens [B, g, g, D]."""
    if x.ndim == 2:
        return None, x[:, None, None, :]
    if x.ndim == 4:
        return None, x.permute(0, 2, 3, 1)
    count = x.shape[1]
    side = math.isqrt(count)
    class_token = x[:, 0] if side * side != count else None
    patches = x if class_token is None else x[:, 1:]
    grid = torch.stack(
        [torch.stack([patches[:, side * i + j] for j in range(side)], dim=1) for i in range(side)],
        dim=1,
    )
    return class_token, grid


def by_hand(x: Tensor, weight: Tensor, bias: Tensor, receiver: Shape) -> Tensor:
    """Map grids of equal size, or from or to a single position, and class tokens linearly."""
    class_token, grid = as_positions(x)
    side, receiver_side = grid.shape[1], as_map(receiver)[1]
    takes = has_class_token(receiver)
    if class_token is not None and not takes:
        grid = grid + class_token[:, None, None, :]
    if receiver_side == 1 != side:
        grid = grid.mean(dim=(1, 2), keepdim=True)
    if takes and class_token is None:
        class_token = grid.mean(dim=(1, 2))
    grid = grid @ weight.T + bias
    if side == 1 != receiver_side:
        grid = grid.expand(-1, receiver_side, receiver_side, -1)
    if len(receiver) == 3:
        return grid.permute(0, 3, 1, 2)
    rows = grid.flatten(1, 2)
    if takes:
        rows = torch.cat([(class_token @ weight.T + bias)[:, None], rows], dim=1)
    return rows if len(receiver) == 2 else rows[:, 0]


KINDS: list[Shape] = [(9, 4), (10, 4), (4, 3, 3), (4,)]


def test_the_conversion_is_what_the_documentation_says(subtests):
    for sender in KINDS:
        for receiver in ((9, 5), (10, 5), (5, 3, 3), (5,)):
            with subtests.test(f"{sender}, {receiver}"):
                stitch = build_stitch("conv1x1", sender, receiver).double()
                x = draw(3, *sender)
                found = stitch(x)
                assert found.shape == (3, *receiver)
                torch.testing.assert_close(
                    found, by_hand(x, stitch.matrix(), stitch.offset(), receiver)
                )


@pytest.mark.parametrize("class_token", [0, 1])
def test_between_equal_sequences_it_is_one_linear_map_of_every_token(class_token):
    stitch = build_stitch("conv1x1", (9 + class_token, 4), (9 + class_token, 6)).double()
    x = draw(2, 9 + class_token, 4)
    torch.testing.assert_close(stitch(x), x @ stitch.matrix().T + stitch.offset())
    assert capacity(stitch) == (4 * 6 + 6, (9 + class_token) * 4 * 6)


def test_a_strided_stitch_gives_a_class_token_its_own_window():
    stitch = build_stitch("conv1x1", (17, 3), (5, 2), options={"down": "strided"}).double()
    x, (weight, bias) = draw(2, 17, 3), (stitch.matrix(), stitch.offset())
    _, grid = as_positions(x)
    found = stitch(x)
    # The class token fills all four positions of its window.
    spread = x[:, 0, :, None].expand(-1, -1, 4).flatten(1)
    torch.testing.assert_close(found[:, 0], spread @ weight.T + bias)
    for k, (i, j) in enumerate(((0, 0), (0, 2), (2, 0), (2, 2)), start=1):
        window = grid[:, i : i + 2, j : j + 2].permute(0, 3, 1, 2).flatten(1)
        torch.testing.assert_close(found[:, k], window @ weight.T + bias)


@pytest.mark.parametrize("name", ["conv3x3", "basic_block", "bottleneck"])
def test_windows_are_those_of_the_map_of_patches(name):
    sequence = build_stitch(name, (16, 4), (9, 6)).double().eval()
    of_maps = build_stitch(name, (4, 4, 4), (6, 3, 3)).double().eval()
    of_maps.load_state_dict(sequence.state_dict())
    x = draw(2, 16, 4)
    grid = as_positions(x)[1].permute(0, 3, 1, 2)
    torch.testing.assert_close(sequence(x), of_maps(grid).flatten(2).transpose(1, 2))


def test_a_class_token_and_a_vector_have_no_neighbours(subtests):
    for name in ("conv3x3", "basic_block", "bottleneck"):
        for receiver in ((5, 4), (4,)):
            message = f"stitch '{name}' can't join 4x2x2 to .*class token"
            with (
                subtests.test(f"{name}, {receiver}"),
                pytest.raises(InputError, match=message),
            ):
                build_stitch(name, (4, 2, 2), receiver)


# --- losses and measures ------------------------------------------------------------------------


def inputs(stitched: Tensor, expected: Tensor) -> LossInputs:
    logits = [draw(len(stitched), 5, seed=k) for k in range(3)]
    labels = torch.arange(len(stitched)) % 5
    later = {4: (stitched.flatten(1), expected.flatten(1))}
    return LossInputs(labels, stitched, expected, *logits, later)


def test_losses_take_tokens_as_positions(subtests):
    for name in LOSSES.names():
        with subtests.test(str(name)):
            tokens = draw(12, 5, 3, seed=1), draw(12, 5, 3, seed=2)
            maps = [x.transpose(1, 2).unsqueeze(3) for x in tokens]
            loss = CombinedLoss([(name, 1.0, {})], LossContext(expected_variance=1.7))
            torch.testing.assert_close(loss(inputs(*tokens))[0], loss(inputs(*maps))[0])


def test_measures_take_tokens_as_positions():
    tokens = draw(12, 5, 3, seed=1), draw(12, 5, 3, seed=2)
    found = []
    for pair in (tokens, [x.transpose(1, 2).unsqueeze(3) for x in tokens]):
        measures = SimilarityMeasures()
        measures.add(*pair)
        found.append(measures.result())
    assert found[0] == pytest.approx(found[1])


def test_calibration_maps_every_token(subtests):
    for group in ("scale", "channel_affine", "isotropic", "affine"):
        with subtests.test(str(group)):
            x, y = draw(40, 5, 3, seed=1), draw(40, 5, 3, seed=2)
            of_tokens, of_maps = Calibration(group), Calibration(group)
            of_tokens.add(x, y)
            of_maps.add(*(side.transpose(1, 2).unsqueeze(3) for side in (x, y)))
            expected = of_maps.fit()(x.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)
            torch.testing.assert_close(of_tokens.fit()(x), expected)


# --- trainings ----------------------------------------------------------------------------------


def untrained(family: str, **options: Any) -> FrozenNetwork:
    seed_everything(3, threads=1)
    usual: dict[str, dict[str, Any]] = {
        "vit": {"depth": 2, "width": 12, "heads": 2, "patch": 4},
        "mlp": {"depth": 2, "width": 16},
        "cnn": {"depth": 3, "width": 4},
    }
    module: nn.Module = build(family, 1, 10, {**usual[family], **options}, image_size=16)
    return FrozenNetwork(module, family)


NETWORKS = {
    "vit": ("vit", {}),
    "vit mean": ("vit", {"class_token": False}),
    "mlp": ("mlp", {}),
    "cnn": ("cnn", {}),
}


@pytest.mark.parametrize("sender", NETWORKS)
def test_every_kind_of_network_is_stitched_to_every_other(subtests, sender, digits: Data):
    for receiver in NETWORKS:
        with subtests.test(str(receiver)):
            one, other = (untrained(NETWORKS[n][0], **NETWORKS[n][1]) for n in (sender, receiver))
            stitch = {"name": "conv1x1", "start": "least_squares"}
            result = finish_training(start_training(one, other, 1, 1, digits, "mse", stitch))
            assert result.status == "finished"
            assert (
                result.metrics["excess"] >= -1e-6
            )  # nothing trained is better than the closed form


@pytest.mark.parametrize("class_token", [True, False])
def test_a_vit_stitched_to_itself_as_the_identity_is_itself(subtests, class_token, digits: Data):
    for name in ("identity", "conv1x1", "paper", "affine", "orthogonal"):
        with subtests.test(str(name)):
            network = untrained("vit", class_token=class_token)
            for layer in range(3):
                stitch = {"name": name, "start": "identity"}
                result = finish_training(
                    start_training(network, network, layer, layer, digits, stitch=stitch, epochs=0)
                )
                assert result.metrics["penalty"] == 0
                assert result.metrics["val_mse"] == 0


@pytest.mark.parametrize("class_token", [True, False])
def test_least_squares_finds_a_vit_in_itself(class_token, digits: Data):
    network = untrained("vit", class_token=class_token)
    stitch = {"name": "conv1x1", "start": "least_squares"}
    metrics = finish_training(
        start_training(network, network, 1, 1, digits, "mse", stitch, epochs=0)
    ).metrics
    assert metrics["converged"]
    assert metrics["val_relative_mse"] == pytest.approx(0, abs=1e-8)
    assert metrics["excess"] == pytest.approx(0, abs=1e-8)


# --- before anything runs -----------------------------------------------------------------------


def config(stitch: str, **other: Any) -> Config:
    return Config.model_validate(
        {
            "data": {"name": "digits", "image_size": 16, "train_images": 300, "test_images": 120},
            "networks": [
                {"name": "v", "family": "vit2", "width": 12, "patch": 4},
                {"name": "c", "family": "cnn3", "width": 4},
            ],
            "pairs": [{"sender": "c", "receiver": "v"}],
            "stitch": {"name": stitch},
            **other,
        }
    )


def test_misfits_are_found_before_anything_runs():
    with pytest.raises(InputError) as refused:
        prepare(config("conv3x3"))
    assert len(refused.value.problems) == 9
    assert refused.value.problems[0].startswith("c:0 -> v:0: stitch 'conv3x3' can't join 4x16x16")


def test_a_loss_that_can_teach_nothing_is_noted_for_tokens_too():
    """CCA is flat for an affine stitch that keeps all channels: 4 into 12 with nothing pooled away."""
    prepared = prepare(
        config("conv1x1", pairs=[{"sender": "v", "receiver": "v", "sender_layers": [1],
                                  "receiver_layers": [2]}], loss={"cca": 1.0})
    )  # fmt: skip
    assert any("cca" in note for note in prepared.notes)
