"""`layers: auto`: one layer of stitching per block."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from stitch_sweep.networks.cutting.hooked import HookedNetwork
from stitch_sweep.networks.cutting.opening import open_network
from stitch_sweep.networks.cutting.points import CutError
from stitch_sweep.networks.cutting.traced import (
    TracedNetwork,
    layers,
)
from tests.support.networks import (
    check_every_cut,
    family_factory,
    prepared_network,
    random_images,
)


@pytest.mark.parametrize(
    ("name", "first", "last", "count"),
    [
        ("resnet18", "relu", "layer4.1", 9),
        ("vgg11_bn", "features.2", "classifier.5", 10),
        ("mobilenet_v3_small", "features.0", "classifier.2", 14),
        ("densenet121", "features.relu0", "features.denseblock4", 8),
        ("googlenet", "conv1", "inception5b", 12),
        ("convnext_tiny", "features.0", "features.7.2", 22),
        ("vit_b_16", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11", 12),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
def test_auto_is_one_layer_per_block(name, first, last, count):
    with torch.device("meta"):  # names need no weights
        model = getattr(torchvision.models, name)(weights=None).eval()
    names = [layer.name for layer in layers(model, layer_names="auto")]
    assert (names[0], names[-1], len(names)) == (first, last, count)
    assert all(layer.index == k for k, layer in enumerate(layers(model, layer_names="auto")))


def test_auto_of_our_own_family_is_its_own_layers():
    model = prepared_network(family_factory("resnet1122", 2))
    assert layers(model, layer_names="auto") == layers(model)


class Encoded(nn.Module):
    """A transformer written by hand; with a mask, torch.fx can't trace into the encoder."""

    def __init__(self, masked: bool = False, norm_first: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, stride=2)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
        self.enc = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)
        self.register_buffer("mask", torch.zeros(9, 9) if masked else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.enc(x, mask=self.mask).mean(1))


class Listed(Encoded):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for layer in self.enc.layers:
            x = layer(x)
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.head = kind(18, 8, 2, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, _ = self.rnn(x.transpose(1, 2).flatten(2))
        return self.head(x[:, -1])


BLOCKS = ["patch", "enc.layers.0", "enc.layers.1", "enc.layers.2"]


@pytest.mark.parametrize(
    ("factory", "auto"),
    [
        (Encoded, BLOCKS),
        (lambda: Encoded(norm_first=True), BLOCKS),
        (Listed, BLOCKS),
        (lambda: Encoded(masked=True), ["patch", "enc"]),
        (lambda: Recurrent(nn.LSTM), ["getitem"]),
        (lambda: Recurrent(nn.GRU), ["getitem"]),
    ],
    ids=["encoder", "norm first", "list", "mask", "lstm", "gru"],
)
def test_blocks_that_torch_itself_has_are_layers(factory, auto):
    model = prepared_network(factory)
    assert [layer.name for layer in layers(model, layer_names="auto")] == auto
    assert set(check_every_cut(model, random_images(6))) >= set(auto)


def test_what_torch_keeps_together_is_cut_with_hooks_where_that_goes():
    model, x = prepared_network(lambda: Encoded(masked=True)), random_images(6)
    message = (
        "torch.fx treats 'enc' .TransformerEncoder. of Encoded as a single operation, "
        "and 'enc.layers.0' is inside"
    )
    with pytest.raises(CutError, match=message):
        TracedNetwork(model, layer_names=["enc.layers.0"])
    with pytest.raises(CutError, match="torch takes another computation"):
        open_network(model, layer_names=["enc.layers.0"], image_shape=(3, 6, 6))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        network = open_network(model, layer_names=["enc.layers.0"], image_shape=(3, 6, 6))
        assert isinstance(network, HookedNetwork)
        with torch.no_grad():
            at_cut = network.sub_network(None, 0)(x)
            assert torch.equal(network.sub_network(0, None)(at_cut), model(x))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
