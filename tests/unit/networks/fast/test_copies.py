"""Fast copies: shared, verified with their network, and compared with it before their first use."""

from __future__ import annotations

import copy
import platform
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from stitch_sweep.core.errors import InputError
from stitch_sweep.networks import frozen
from stitch_sweep.networks.cutting.opening import open_network
from stitch_sweep.networks.fast import folding, machine
from stitch_sweep.networks.fast.copies import FastNetwork, FastSettings, training_network
from stitch_sweep.networks.frozen import FrozenError, FrozenNetwork
from tests.support import families
from tests.support.fast import normed_network, rows

HAS_BFLOAT16 = machine.has_bfloat16
FUSED = FastSettings("fused")
SHORT = FastSettings("fused", "bfloat16")


@pytest.fixture(autouse=True)
def any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in bfloat16 on every processor: it is slow without the instructions, but works."""
    monkeypatch.setattr(machine, "has_bfloat16", lambda kind: True)


def fast_copy(network: FrozenNetwork, settings: FastSettings = FUSED) -> FastNetwork:
    made = training_network(network, settings)
    assert isinstance(made, FastNetwork)
    return made


def compare(made: FastNetwork, network: FrozenNetwork, layer: int, **options: bool) -> None:
    made.compare(layer, rows(network, layer), **options)


@pytest.mark.parametrize("variant", families.VARIANTS)
@pytest.mark.parametrize("settings", [FUSED, SHORT, FastSettings("exact", "bfloat16")], ids=str)
def test_copies_of_every_family_pass_the_comparison_at_every_layer(variant, settings):
    network = normed_network(variant)
    made = fast_copy(network, settings)
    for layer in range(-1, len(network.layer_names)):
        compare(made, network, layer, stepwise=True)
        assert made.has_compared(layer, stepwise=True)
        output = made.suffix(layer)(rows(network, layer))
        assert output.dtype == torch.float32
    network.verify()


def test_without_settings_training_steps_run_the_network_itself():
    network = normed_network("resnet")
    assert training_network(network, FastSettings()) is network
    assert network.copies == {}


def test_parts_are_made_once_and_share_their_weights():
    network = normed_network("resnet")
    parts = [fast_copy(network, s).suffix(k) for s in (FUSED, SHORT) for k in range(-1, 5)]
    assert fast_copy(network).suffix(2) is parts[3]
    weights = {p.data_ptr(): p.numel() for part in parts for p in part.parameters()}
    folded = sum(p.numel() for p in network.network.parameters())
    # A folded convolution has a bias in place of the BatchNorm's scale and shift.
    assert sum(weights.values()) <= folded


def test_bfloat16_and_float32_share_their_weights_and_differ_in_their_output():
    network = normed_network("resnet")
    short, plain = fast_copy(network, SHORT).suffix(0), fast_copy(network).suffix(0)
    x = rows(network, 0)
    assert torch.equal(short.in_float32()(x), plain(x))
    assert not torch.equal(short(x), plain(x))


@pytest.mark.parametrize("variant", families.VARIANTS)
def test_the_last_column_stays_in_float32(variant):
    network = normed_network(variant)
    last = len(network.layer_names) - 1
    x = rows(network, last)
    outputs = [fast_copy(network, settings).suffix(last)(x) for settings in (FUSED, SHORT)]
    assert torch.equal(*outputs)


# Planted faults


def change(network: nn.Module) -> nn.Module:
    changed = copy.deepcopy(network)
    with torch.no_grad():
        changed.layer3[0].conv1.weight.mul_(1.01)
    return changed


def test_a_stale_copy_is_refused_when_its_network_is_verified():
    network = normed_network("resnet")
    compare(fast_copy(network), network, 1)
    changed = FrozenNetwork(change(network.network), "network 'b'")
    changed.copies = network.copies
    with pytest.raises(FrozenError, match="made from other weights"):
        changed.verify()


def wrong_epsilon(layer, norm):
    wrong = copy.deepcopy(norm)
    wrong.eps = 1e-3
    return FOLD(layer, wrong)


def folded_twice(layer, norm):
    return nn.Sequential(FOLD(layer, norm), norm)


def stale(layer, norm):
    """The fold of weights from before they changed."""
    old = copy.deepcopy(layer)
    with torch.no_grad():
        old.weight.mul_(1.01)
    return FOLD(old, norm)


def without_gradient(layer, norm):
    class Cut(nn.Module):
        def forward(self, x):
            return FOLD(layer, norm)(x.detach()) + 0 * x.sum()

    return Cut().eval()


def in_bfloat16(layer, norm):
    return FOLD(layer, norm).bfloat16().float()


FOLD = folding.fold_batch_norm
FAULTS = [wrong_epsilon, folded_twice, stale, without_gradient, in_bfloat16]


@pytest.mark.parametrize("settings", [FUSED, SHORT], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_fold_is_refused_and_its_layers_are_named(fault, settings, monkeypatch):
    """Only one convolution is folded wrongly: the first of layer 3."""
    network = normed_network("resnet")
    target = network.network.layer2[1].conv1

    def fold(layer, norm):
        return (fault if layer is target else FOLD)(layer, norm)

    monkeypatch.setattr(folding, "fold_batch_norm", fold)
    made = fast_copy(network, settings)
    with pytest.raises(InputError) as caught:
        compare(made, network, 0)
    names = network.layer_names
    assert f"from layer 2 ({names[2]}) to layer 3 ({names[3]})" in str(caught.value)
    assert "training.frozen: fused" in str(caught.value)
    # The part behind the fault is right.
    compare(made, network, 3)


@pytest.mark.parametrize("place", ["the part", "body", "body.layer4"])
def test_a_copy_in_train_mode_is_refused_and_named(place):
    network = normed_network("resnet")
    part = fast_copy(network).suffix(2)
    (part if place == "the part" else part.get_submodule(place)).training = True
    with pytest.raises(FrozenError, match=f"layer 2.*{place} is in train mode"):
        network.verify()


@pytest.mark.parametrize("fault", ["value", "requires_grad", "grad"])
def test_a_folded_weight_that_changes_is_noticed(fault):
    network = normed_network("resnet")
    made = fast_copy(network)
    made.suffix(1)
    weight = next(iter(made.modules)).weight
    if fault == "value":
        weight[0, 0, 0, 0] *= 1 + 1e-6
    elif fault == "grad":
        weight.grad = torch.zeros_like(weight)
    else:
        weight.requires_grad_(True)
    with pytest.raises(FrozenError, match="folded"):
        network.verify()


# Machines


def test_a_missing_compiler_is_an_input_error_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    network = normed_network("resnet")
    with pytest.raises(InputError, match=r"training.frozen: compiled needs a C\+\+ compiler"):
        training_network(network, FastSettings("compiled"))
    assert network.copies == {}


def test_a_processor_without_bfloat16_is_an_input_error(monkeypatch):
    monkeypatch.setattr(machine, "has_bfloat16", lambda kind: False)
    with pytest.raises(InputError, match=r"training.precision: this CPU has no arithmetic"):
        training_network(normed_network("resnet"), SHORT)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux only")
def test_the_kernel_lists_the_instructions_for_bfloat16_of_this_processor():
    flags = Path("/proc/cpuinfo").read_text().split()
    if platform.machine() != "x86_64":
        pytest.skip("processors of other makers name them otherwise")
    assert HAS_BFLOAT16("cpu") == bool({"avx512_bf16", "amx_bf16"} & set(flags))


class Branching(nn.Module):
    """A network that torch.fx can't trace."""

    layer_names = ("conv",)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, x):
        y = self.norm(self.conv(x)).mean((2, 3))
        return self.fc(y if y.sum() > -1e9 else -y)


@pytest.mark.parametrize("settings", [FUSED, SHORT], ids=str)
def test_a_network_that_can_t_be_traced_runs_as_it_is(settings, monkeypatch):
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        # An external network brings its image shape; `open_network` reads it from the wrapper.
        patch.setattr(frozen, "open_network", partial(open_network, image_shape=(3, 16, 16)))
        network = FrozenNetwork(Branching(), "a branch")
    made = fast_copy(network, settings)
    made.compare(0, network.prefix(0)(families.images(count=8)))
    assert list(made.modules) == []
    network.verify()
