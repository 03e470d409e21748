"""BatchNorm folded into convolutions and linear layers computes the same, and changes no network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stitch_sweep.networks.cutting.traced import create_sub_network
from stitch_sweep.networks.fast.comparison import FLOAT32, compare_parts
from stitch_sweep.networks.fast.folding import FoldedModules, fold_batch_norm, fold_part
from stitch_sweep.networks.fast.parts import FastPart
from tests.support.families import VARIANTS
from tests.support.fast import normed_network, rows
from tests.support.networks import model_state


def norm_with_statistics(norm: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    norm.running_mean.normal_(0, 1, generator=generator)
    norm.running_var.uniform_(0.01, 3, generator=generator)
    if norm.affine:
        nn.init.normal_(norm.weight, generator=generator)
        nn.init.normal_(norm.bias, generator=generator)
    return norm.eval()


LAYERS = {
    "3x3": (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), (3, 9, 9)),
    "no bias": (nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), (3, 9, 9)),
    "no affine map": (nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, affine=False), (3, 9, 9)),
    "groups, stride": (nn.Conv2d(4, 8, 3, 2, groups=4), nn.BatchNorm2d(8), (4, 9, 9)),
    "circular": (
        nn.Conv2d(3, 4, 3, padding=2, dilation=2, padding_mode="circular"),
        nn.BatchNorm2d(4, eps=0.1),
        (3, 9, 9),
    ),
    "1d": (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (3, 9)),
    "3d": (nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), (2, 5, 5, 5)),
    "linear": (nn.Linear(5, 4), nn.BatchNorm1d(4), (5,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_folded_layer_is_the_layer_and_its_batch_norm_in_float64(name):
    torch.manual_seed(0)
    layer, norm, shape = LAYERS[name]
    norm_with_statistics(norm)
    before = model_state(nn.Sequential(layer, norm))
    folded = fold_batch_norm(layer, norm)
    x = torch.randn(4, *shape, dtype=torch.float64)
    expected = copy.deepcopy(norm).double()(copy.deepcopy(layer).double()(x))
    actual = copy.deepcopy(folded).double()(x)
    # The new weights are float32, so they carry one rounding.
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    assert model_state(nn.Sequential(layer, norm)) == before
    assert not any(parameter.requires_grad for parameter in folded.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_part_of_every_family_stays_the_same_function(variant):
    network = normed_network(variant)
    before, modules = model_state(network.network), FoldedModules()
    for layer in range(-1, len(network.layer_names)):
        value = rows(network, layer)
        part = fold_part(network.suffix(layer), modules)
        assert not compare_parts(network.suffix(layer), part, value).exceeds(FLOAT32), layer
        assert not any(module.training for module in part.modules())
    assert model_state(network.network) == before


def count_norms(network: nn.Module) -> int:
    part = create_sub_network(network, None, None)
    folded = fold_part(part, FoldedModules())
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules())


@pytest.mark.parametrize(
    ("variant", "left"), {"resnet": 0, "resnet plain": 0, "vgg": 0, "densenet": 9}.items()
)
def test_only_a_batch_norm_before_its_convolution_stays(variant, left):
    """A dense layer keeps its first BatchNorm; transitions and the head keep theirs: 6 + 2 + 1."""
    assert count_norms(normed_network(variant).network) == left


class TwoReaders(nn.Module):
    """A convolution whose output is read by its BatchNorm and by a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class Tokens(nn.Module):
    """BatchNorm1d over the 5 tokens of [B, 5, 4], which a linear layer gave."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(5)

    def forward(self, x):
        return self.norm(self.linear(x))


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    network[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return network


def without_statistics() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))


def doubled() -> nn.Module:
    network = nn.Sequential(Doubled(3, 3, 1), nn.BatchNorm2d(3))
    network[0].traced_as_one = True
    return network


@pytest.mark.parametrize("make", [TwoReaders, Tokens, hooked, without_statistics, doubled])
def test_what_is_not_one_layer_stays(make):
    assert count_norms(make().eval()) == 1


def test_one_convolution_with_two_batch_norms_is_folded_twice():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.second(self.conv(self.first(self.conv(x))))

    torch.manual_seed(0)
    network = Shared()
    norm_with_statistics(network.first)
    network.eval().requires_grad_(False)
    part = create_sub_network(network, None, None)
    folded = fold_part(part, FoldedModules())
    assert count_norms(network) == 0
    assert not compare_parts(part, folded, torch.randn(4, 3, 8, 8)).exceeds(FLOAT32)


def test_a_view_of_a_map_that_is_stored_channels_last_is_copied():
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 2)

        def forward(self, x):
            y = self.conv(x)
            return self.fc(y.view(y.size(0), -1))

    network = Viewing().eval().requires_grad_(False)
    part = create_sub_network(network, None, None)
    body = fold_part(part, FoldedModules())
    fast = FastPart(body, channels_last=True, bfloat16=False)
    assert not compare_parts(part, fast, torch.randn(2, 3, 8, 8)).exceeds(FLOAT32)
