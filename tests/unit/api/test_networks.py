"""Layers, parts and sizes of a network, as the Python API shows them."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import stitch_sweep as ss
from tests.support.api import Net

SHAPE = (1, 8, 8)


class LightningModule(nn.Module):
    """A stand-in: Lightning itself is no dependency."""


class Classifier(LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = nn.CrossEntropyLoss()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)


class Scaled(Classifier):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images) * 2


def test_layers_have_the_shapes_of_the_representations():
    net = Net().eval()
    layers = ss.layers(net, SHAPE)
    images = torch.randn(2, *SHAPE)
    assert list(layers.index) == list(range(len(layers)))
    for row in layers.itertuples():
        assert ss.cut(net, None, row.name)(images).shape[1:] == row.shape
    assert list(ss.layers(net).columns) == ["name"]


def test_two_parts_compute_the_bits_of_the_network():
    net = Net().eval()
    images = torch.randn(3, *SHAPE)
    for place in (*ss.layers(net)["name"], *range(len(ss.layers(net)))):
        front, back = ss.cut(net, None, place), ss.cut(net, place, None)
        assert torch.equal(back(front(images)), net(images)), place
    assert torch.equal(ss.cut(net)(images), net(images))


def test_a_part_shares_the_parameters():
    net = Net()
    parameters = {id(p) for p in net.parameters()}
    assert {id(p) for p in ss.cut(net, "stem", None).parameters()} <= parameters


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, Classifier])
def test_wrappers_are_removed(wrap):
    net = Net()
    assert ss.layers(wrap(net), SHAPE).equals(ss.layers(net, SHAPE))


def test_an_ambiguous_lightning_module_is_refused():
    for module in (Scaled(Net()), Classifier(Net())):
        if not isinstance(module, Scaled):
            module.teacher = Net()
        with pytest.raises(ss.InputError, match="is a Lightning module"):
            ss.layers(module)


def test_describe_counts_the_parameters():
    net = Net()
    description = ss.describe(net, SHAPE)
    assert description.total_params == sum(p.numel() for p in net.parameters())
    assert [row.name for row in description.layers] == list(ss.layers(net)["name"])


def test_errors_are_sentences():
    cases = {
        "net: is Net, but a torch.nn.Module is required; call it": lambda: ss.layers(Net),
        "net: is a dict, but": lambda: ss.cut({}, None, 1),
        "give image_shape=": lambda: ss.describe(Net()),
        "TorchScript": lambda: ss.layers(torch.jit.script(Net())),
        "no layer 9": lambda: ss.cut(Net(), None, 9),
    }
    for text, call in cases.items():
        with pytest.raises(ss.InputError) as raised:
            call()
        assert text in str(raised.value)


def test_the_package_and_the_function_sweep_have_one_name():
    import stitch_sweep.sweep.pace

    assert stitch_sweep.sweep is sys.modules["stitch_sweep.sweep"]
    assert callable(ss.sweep)
    with pytest.raises(ss.InputError, match="name the experiment folder"):
        ss.sweep({})
