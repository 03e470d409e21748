"""Networks that torch.fx cannot trace, and maps and batches in other orders of axes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from stitch_sweep.networks.cutting.hooked import HookedNetwork
from stitch_sweep.networks.cutting.opening import open_network
from stitch_sweep.networks.cutting.points import CutError
from stitch_sweep.networks.external.preprocessing import Imported
from tests.support.networks import (
    model_state,
    prepared_network,
    random_images,
)


class Branching(nn.Module):
    """A network that torch.fx can't trace: a skip over `two` and `three`, in-place operations."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True))
        self.three = nn.Conv2d(4, 4, 1)
        self.four = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
        self.twice = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        if x.isnan().any():
            raise ValueError("no numbers")
        x = self.four(x + self.three(self.two(x)))
        x = self.twice(self.twice(x))
        return self.fc(x.mean((2, 3)))


def test_hooks_cut_what_cannot_be_traced_and_only_where_it_is_sequential():
    model, x = prepared_network(Branching), random_images(6)
    before, original = model_state(model), x.clone()
    network = open_network(model, image_shape=(3, 6, 6))
    assert isinstance(network, HookedNetwork)
    names = [point.name for point in network.cut_points]
    # `one` crosses `two` and `three`; `twice` has two runs; `fc` is the output.
    assert names == ["one", "four.0", "four.1"]
    with torch.no_grad():
        expected = model(x.clone())
        for name in names:
            prefix, suffix = network.sub_network(None, name), network.sub_network(name, None)
            at_cut = prefix(x)
            kept = at_cut.clone()
            assert torch.equal(suffix(at_cut), expected)
            assert torch.equal(at_cut, kept)
            assert torch.equal(x, original)
        part = network.sub_network("one", "four")
        at_one = network.sub_network(None, "one")(x)
        assert torch.equal(part(at_one), network.sub_network(None, "four")(x))
    assert model_state(model) == before
    costs = network.costs((3, 6, 6))
    assert costs["one"].params_before == 4 * 27 + 4
    assert costs["one"].mult_adds_before == 4 * 27 * 36
    total = sum(p.numel() for p in model.parameters())
    assert {c.params_before + c.params_after for c in costs.values()} == {total}
    assert network.shapes((3, 6, 6)) == dict.fromkeys(names, (4, 6, 6))


def test_hooks_refuse_other_places(subtests):
    for name, message in (
        ("two", "other tensors cross there.*can't trace Branching.*isnan"),
        ("twice", "no submodule 'twice' that runs once"),
        ("fc", "it is the network's output"),
        ("fuor", "did you mean 'four'"),
    ):
        with subtests.test(f"{name}, {message}"):
            network = open_network(prepared_network(Branching), image_shape=(3, 6, 6))
            with pytest.raises(CutError, match=f"(?s){message}"):
                network.sub_network(None, name)


class Remembering(nn.Module):
    """A network with a branch after its stem that depends on the image before it."""

    def __init__(self, asks: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.stem, self.body, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)
        self.asks = asks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = bool(self.asks(x))
        x = self.stem(x).relu()
        if answer:
            x = x * 2
        return self.fc(self.body(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("asks", "kind"),
    [
        (lambda x: x.mean() > 0.5, "bright images"),
        (lambda x: x.mean() < -0.5, "dark images"),
        (lambda x: x.abs().max() > 10, "strong noise"),
        (lambda x: 0 < x.diff().abs().max() < 0.6, "the data's images"),
    ],
)
def test_a_branch_on_the_image_that_noise_does_not_take_is_found(asks, kind):
    model = prepared_network(lambda: Remembering(asks))
    smooth = torch.linspace(-1, 1, 6).expand(2, 3, 6, 6)
    message = f"(?s)no cut behind 'stem': other tensors cross there for {kind}, though not for"
    with pytest.raises(CutError, match=message):
        open_network(model, layer_names=["stem"], image_shape=(3, 6, 6), images=smooth)
    found = open_network(model, layer_names="auto", image_shape=(3, 6, 6), images=smooth)
    assert [layer.name for layer in found.layers] == ["body"]


def test_without_the_trial_hooks_would_cut_a_skip(monkeypatch):
    monkeypatch.setattr(HookedNetwork, "_explain_no_cut", lambda self, path: "")
    network = open_network(
        prepared_network(Branching), layer_names=["one", "two"], image_shape=(3, 6, 6)
    )
    x = random_images(6)
    with torch.no_grad():
        found = network.sub_network(1, None)(network.sub_network(None, 1)(x))
        assert not torch.equal(found, network.sub_network(None, None)(x))


def test_a_network_with_no_place_at_all_says_what_stood_in_the_way():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.one(x) if x.sum() < 1e9 else x
            return (y + x.mean()).mean((2, 3))

    with pytest.raises(CutError, match=r"(?s)x\.sum\(\) < 1e9.*Hooks find no place to cut either"):
        open_network(Whole().eval(), image_shape=(3, 4, 4))


class ChannelsLast(nn.Module):
    """A network like Swin: [B, H, W, C] between its layers; the last one works in place."""

    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 2, stride=2)
        self.one = nn.Linear(6, 5)
        self.two = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 7))
        self.fc = nn.Linear(7, 10)
        self._branches = branches

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(self.patch(x).permute(0, 2, 3, 1))
        if self._branches and x.isnan().any():
            raise ValueError("no numbers")
        return self.fc(self.two(x).mean((1, 2)))


@pytest.mark.parametrize("branches", [False, True])
def test_a_map_with_channels_last_is_turned_at_the_cut(branches):
    model, x = (
        Imported(prepared_network(lambda: ChannelsLast(branches)), None, (3, 8, 8)).eval(),
        random_images(8),
    )
    network = open_network(model, layer_names=["patch", "one", "two.1"])
    assert isinstance(network, HookedNetwork) == branches
    shapes = {"patch": (6, 4, 4), "one": (5, 4, 4), "two.1": (7, 4, 4)}
    assert network.shapes((3, 8, 8)).items() >= shapes.items()
    costs = network.costs((3, 8, 8))
    with torch.no_grad():
        for name, shape in shapes.items():
            prefix, suffix = network.sub_network(None, name), network.sub_network(name, None)
            at_cut = prefix(x)
            kept = at_cut.clone()
            assert tuple(at_cut.shape[1:]) == costs[name].shape == shape
            assert torch.equal(suffix(at_cut), model(x))
            assert torch.equal(at_cut, kept)
            assert torch.equal(network.sub_network(name, name)(x), x)
        # Channel c of the cut is feature c of the layer.
        inner = model.network.one(model.network.patch(x).permute(0, 2, 3, 1))
        assert torch.equal(network.sub_network(None, "one")(x)[:, 3], inner[..., 3])
        between = network.sub_network("one", "two.1")
        assert torch.equal(
            between(network.sub_network(None, "one")(x)), network.sub_network(None, "two.1")(x)
        )


class SequenceFirst(nn.Module):
    """A network with [T, B, D] between its layers, the default of torch's transformers."""

    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.patch, self.body, self.fc = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8), nn.Linear(8, 5)
        self._branches = branches

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(self.patch(x).flatten(2).permute(2, 0, 1))
        if self._branches and x.isnan().any():
            raise ValueError("no numbers")
        return self.fc(x.mean(0))


@pytest.mark.parametrize("branches", [False, True])
def test_a_cut_where_the_batch_is_not_the_first_axis_is_refused(branches):
    model = prepared_network(lambda: SequenceFirst(branches))
    network = open_network(model, layer_names="auto", image_shape=(3, 6, 6))
    assert isinstance(network, HookedNetwork) == branches
    assert [layer.name for layer in network.layers] == ["patch"]
    message = r"'body': its first axis is not the batch: its shape is \[9, 1, 8\] for one image and"
    with pytest.raises(CutError, match=message):
        open_network(model, layer_names=["body"], image_shape=(3, 6, 6))
