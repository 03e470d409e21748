"""Traced networks: every cut is exact, and a wrong cut is refused with its reason."""

from __future__ import annotations

import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from stitch_sweep.networks.cutting import assembly
from stitch_sweep.networks.cutting.opening import open_network
from stitch_sweep.networks.cutting.points import CutError
from stitch_sweep.networks.cutting.traced import (
    TracedNetwork,
    create_sub_network,
    cut_points,
    layers,
)
from stitch_sweep.networks.families.building import build
from tests.support.networks import (
    NETWORKS,
    SLOW_NETWORKS,
    check_every_cut,
    family_factory,
    model_state,
    prepared_network,
    random_images,
    torchvision_factory,
)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in SLOW_NETWORKS])
def test_every_cut_is_exact_and_safe(name):
    factory, size, at_least = NETWORKS[name]
    names = check_every_cut(prepared_network(factory), random_images(size))
    assert len(names) >= at_least, names


@pytest.mark.parametrize("name", ["torchvision resnet18", "mobilenet_v3_small"])
def test_the_test_network_depends_on_its_statistics(name):
    # With statistics of 0 and 1, a suffix without its buffers would pass the tests.
    factory, size, _ = NETWORKS[name]
    model = prepared_network(factory)
    with torch.no_grad():
        expected = model(random_images(size))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        assert not torch.allclose(model(random_images(size)), expected)


class InPlace(nn.Module):
    """A small network with every kind of in-place operation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5, inplace=True)
        self.same = nn.Identity()
        self.register_buffer("shift", torch.linspace(0, 1, 4).view(1, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.conv1(x))
        x = functional.leaky_relu(x - 0.5, 0.1, inplace=True)
        x.add_(1)
        x = self.drop(self.conv2(x))
        second_name = self.same(x)
        x += self.shift
        x = x + second_name
        view = x.view(x.size(0), -1)
        view.mul_(0.5)
        x[:, 0] = 0.25
        torch.relu_(x)
        torch.add(x, 1, out=x)
        return x.mean(dim=(2, 3)) * second_name.amax(dim=(2, 3))


def test_all_kinds_of_in_place_operations():
    names = check_every_cut(prepared_network(InPlace), random_images(8))
    assert "conv1" in names
    assert "relu" in names
    assert "conv2" in names


def test_an_image_is_not_written_to():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1), nn.Flatten()).eval()
    check_every_cut(model, random_images(4))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vgg11_bn"])
def test_without_the_copy_a_suffix_overwrites_the_prefix(name, monkeypatch):
    factory, size, _ = NETWORKS[name]
    monkeypatch.setattr(assembly, "may_write_into", lambda start, nodes, objects: False)
    with pytest.raises(AssertionError):
        check_every_cut(prepared_network(factory), random_images(size))


def test_a_copy_is_made_only_where_it_is_needed():
    model = prepared_network(NETWORKS["torchvision resnet18"][0])
    copies = {
        point.name: any(
            n.target == "clone" for n in create_sub_network(model, point.name, None).graph.nodes
        )
        for point in cut_points(model)
    }
    assert copies["bn1"]  # its ReLU works in place
    assert not copies["layer1.0"]  # a convolution reads it


@pytest.mark.parametrize("name", ["resnet1122", "torchvision resnet18"])
def test_a_part_in_the_middle(name):
    factory, size, _ = NETWORKS[name]
    model, x = prepared_network(factory), random_images(size)
    network = TracedNetwork(model)
    places = [None, "layer1.0", "layer2.0", "layer4.1", None]
    with torch.no_grad():
        value = x
        for start, end in itertools.pairwise(places):
            part = network.sub_network(start, end)
            value = part(value)
        assert torch.equal(value, model(x))
        part = network.sub_network("layer2.0", "layer4.1")
    paths = {path for path, module in model.named_modules() if not list(module.children())}
    expected = {p for p in paths if p.startswith(("layer2.1", "layer3", "layer4"))}
    used = {path for path, module in part.named_modules() if not list(module.children())}
    assert used <= expected
    assert {id(p) for p in part.parameters()} == {
        id(p)
        for path, p in model.named_parameters()
        if path.startswith(("layer2.1.", "layer3.", "layer4."))
    }


def test_layers_are_the_models_own():
    model = prepared_network(family_factory("resnet1122", 2))
    found = layers(model)
    assert [layer.index for layer in found] == list(range(7))
    assert [layer.name for layer in found][:3] == ["relu", "layer1.0", "layer2.0"]
    assert layers(model, layer_names=["conv1", "layer4.1"])[1].name == "layer4.1"


def test_layers_without_names_are_all_cut_points():
    model = prepared_network(NETWORKS["torchvision resnet18"][0])
    assert [layer.name for layer in layers(model)] == [point.name for point in cut_points(model)]


def test_indices_names_and_aliases_mean_the_same():
    model, x = prepared_network(family_factory("resnet1111", 2)), random_images(16)
    with torch.no_grad():
        by_index = create_sub_network(model, -1, 2)(x)
        for name in ("layer2.0", "layer2", "layer2.0.relu2", "layer2_0_relu2", "%layer2_0_relu2"):
            assert torch.equal(create_sub_network(model, None, name)(x), by_index)
        named = create_sub_network(model, 0, 1, layer_names=["conv1", "layer2.0"])
        assert torch.equal(named(model.conv1(x)), by_index)
        assert torch.equal(create_sub_network(model, None, "fc")(x), model(x))


def test_the_same_place_twice_is_the_identity():
    model, x = prepared_network(family_factory("resnet1111", 2)), random_images(16)
    for place in (-1, 0, 4, "avgpool", "fc"):
        part = create_sub_network(model, place, place)
        assert part(x) is x
        assert not list(part.parameters())


def test_shapes():
    model = prepared_network(family_factory("resnet1111", 2)).train()
    before = model_state(model)
    shapes = TracedNetwork(model).shapes((3, 16, 16))
    assert shapes["layer2.0"] == (4, 8, 8)
    assert shapes["flatten"] == (16,)
    assert set(shapes) == {point.name for point in cut_points(model)}
    assert model_state(model) == before


def test_layers_have_shapes_under_the_names_they_were_given():
    model = prepared_network(family_factory("resnet1111", 2))
    network = TracedNetwork(model, layer_names=["relu", "layer2", "flatten"])
    shapes = network.shapes((3, 16, 16))
    assert shapes["layer2"] == shapes["layer2.0"]
    assert [shapes[layer.name] for layer in network.layers] == [(2, 16, 16), (4, 8, 8), (16,)]


def test_a_cut_through_a_skip_is_refused_and_the_skip_named():
    model = prepared_network(family_factory("resnet1122", 2))
    with pytest.raises(CutError) as caught:
        create_sub_network(model, None, "layer3.1.bn1")
    message = str(caught.value)
    assert "sever a skip" in message
    assert "'layer3.0' is used again after it, by 'add_3' (in layer3.1)" in message
    assert "'layer3.0' before it" in message
    assert "'add_3' after it" in message
    with pytest.raises(CutError, match="'relu' is used again after it"):
        create_sub_network(model, "layer1.0.relu1", None)


def test_a_dense_block_lists_what_crosses():
    model = prepared_network(torchvision_factory("densenet121"))
    with pytest.raises(CutError, match=r"used again after it.*; and \d+ more"):
        create_sub_network(model, None, "features.denseblock1.denselayer6.conv2")


def test_wrong_places_are_refused(subtests):
    for start, end, message in (
        (None, "layer9.0", "did you mean 'layer"),
        (None, "zzz", "allowed: .*'?layer1.0"),
        (7, None, "no layer 7.*layers 0 to 4"),
        (-2, None, "no layer -2.*-1 is the image"),
        (3, 1, "swap"),
        ("avgpool", 0, "swap"),
        (4, -1, "swap"),
    ):
        with subtests.test(f"{start}, {end}, {message}"):
            model = prepared_network(family_factory("resnet1111", 2))
            with pytest.raises(CutError, match=message):
                create_sub_network(model, start, end)


def test_a_module_that_runs_twice_must_be_named_by_run():
    model = prepared_network(NETWORKS["torchvision resnet18"][0])
    with pytest.raises(CutError, match=r"runs 2 times.*layer1_0_relu_1"):
        create_sub_network(model, None, "layer1.0.relu")
    create_sub_network(model, None, "layer1_0_relu_1")


def test_layer_names_must_be_cuts_in_order():
    model = prepared_network(family_factory("resnet1111", 2))
    with pytest.raises(CutError, match="sever a skip"):
        layers(model, layer_names=["layer1.0.conv1"])
    with pytest.raises(CutError, match="in the order of computation"):
        layers(model, layer_names=["layer2.0", "layer1.0"])


def test_an_untraceable_model_says_where():
    class Block(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return x
            return -x

    model = nn.Sequential(nn.Conv2d(3, 2, 1), Block()).train()
    before = model_state(model)
    with pytest.raises(CutError, match=r"(?s)TraceError in 1 \(Block\).*x\.sum\(\) > 0"):
        cut_points(model)
    assert model_state(model) == before


def test_more_than_an_image():
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(
            self, x: torch.Tensor, mask: torch.Tensor | None = None, scale: float = 2.0
        ) -> torch.Tensor:
            x = self.conv(x) * scale
            return x.flatten(1) if mask is None else x * mask

    with pytest.raises(CutError, match="more than the image: y"):
        cut_points(Two())
    assert check_every_cut(prepared_network(Optional), random_images(4)) == ["conv", "mul"]


def test_a_model_that_changes_its_buffer_is_refused():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.add_(1)
            return (x * 2).relu()

    model = Counts()
    with pytest.raises(CutError, match="changes its own 'seen'"):
        cut_points(model)
    assert model.seen == 0


def test_parameters_and_what_follows_from_them_do_not_cross():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))
            self.seen: list[torch.Tensor] | torch.Tensor = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = self.scale.exp()
            x = (x * scale).relu()
            self.seen = x
            return (x + scale + torch.arange(3.0).view(3, 1, 1)).flatten(1)

    model = prepared_network(Shared)
    model.double().float()
    assert check_every_cut(model, random_images(4)) == ["mul", "relu", "add", "add_1"]
    for start, end in ((None, "relu"), ("relu", None)):
        part = create_sub_network(model, start, end)
        assert next(part.parameters()) is model.scale


def test_a_tuple_is_no_cut_point():
    class Split(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = x.relu().chunk(2, dim=3)
            return (a + b).flatten(1)

    assert check_every_cut(Split().eval(), random_images(4)) == ["relu", "add"]
    with pytest.raises(CutError, match="not a single tensor"):
        create_sub_network(Split(), None, "chunk")


def test_modes_are_shared_and_kept():
    model = prepared_network(family_factory("resnet1111", 2)).train()
    model.layer1.eval()
    before = model_state(model)
    part = create_sub_network(model, 0, 2)
    assert model_state(model) == before
    assert part.training
    assert not part.get_submodule("layer1.0.bn1").training
    assert part.get_submodule("layer2.0.bn1") is model.layer2[0].bn1


def test_gradients_reach_the_input_and_match():
    model, x = (
        prepared_network(NETWORKS["torchvision resnet18"][0]),
        random_images(32).requires_grad_(),
    )
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    network = TracedNetwork(model)
    y = network.sub_network("bn1", None)(network.sub_network(None, "bn1")(x))
    (found,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(found, expected)


def test_a_part_can_be_pickled():
    model, x = prepared_network(InPlace), random_images(8)
    part = create_sub_network(model, "conv1", None)
    copy = pickle.loads(pickle.dumps(part))
    with torch.no_grad():
        at_cut = model.conv1(x)
        assert torch.equal(copy(at_cut), model(x))


def test_what_lies_before_and_after_a_cut_is_the_whole():
    model = prepared_network(NETWORKS["torchvision resnet18"][0])
    network = TracedNetwork(model)
    costs = network.costs((3, 32, 32))
    assert list(costs) == [point.name for point in network.cut_points]
    total = sum(p.numel() for p in model.parameters())
    assert {c.params_before + c.params_after for c in costs.values()} == {total}
    assert len({c.mult_adds_before + c.mult_adds_after for c in costs.values()}) == 1
    # Counts of the stem's 7x7 convolution with stride 2, and of the head's matrix.
    assert costs["conv1"].params_before == 64 * 3 * 49
    assert costs["conv1"].mult_adds_before == 64 * 3 * 49 * 16 * 16
    assert costs["flatten"].params_after == 512 * 10 + 10
    assert costs["flatten"].mult_adds_after == 512 * 10
    assert costs["layer1.0"].shape == (64, 8, 8)
    for name in ("bn1", "layer2.0"):
        prefix = network.sub_network(None, name)
        assert costs[name].params_before == sum(p.numel() for p in prefix.parameters())


def test_attention_counts():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 2, stride=2)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2)
            return self.attention(x, x, x, need_weights=False)[0].mean(1)

    costs = TracedNetwork(Attention().eval()).costs((3, 8, 8))
    tokens, width = 16, 8
    projections = tokens * 4 * width * width
    products = 2 * tokens * tokens * width
    assert costs["transpose"].mult_adds_after == projections + products
    assert costs["embed"].mult_adds_before == 8 * 12 * 16
    assert torch.backends.mha.get_fastpath_enabled()


class Largest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).max(dim=2).values.mean(1))


def test_a_tuple_with_names_is_no_cut_point():
    names = [point.name for point in cut_points(prepared_network(Largest))]
    assert names == ["conv", "getattr_1", "mean"]
    with pytest.raises(CutError, match="no cut at 'max_1': it is not a single tensor"):
        layers(prepared_network(Largest), layer_names=["max_1"])


def test_what_only_a_run_shows_to_be_no_tensor_is_refused():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.stack(torch.aminmax(self.conv(x), dim=2)).mean((0, 3)))

    model = prepared_network(Scaled)
    assert "aminmax" in [point.name for point in cut_points(model)]
    message = "no cut at 'aminmax': it is a aminmax, not a single tensor"
    with pytest.raises(CutError, match=message):
        TracedNetwork(model, layer_names=["aminmax"]).shapes((3, 6, 6))
    with pytest.raises(CutError, match=message):
        TracedNetwork(model, layer_names=["aminmax"], image_shape=(3, 6, 6))
    network = TracedNetwork(model, image_shape=(3, 6, 6))
    assert "aminmax" not in network.shapes((3, 6, 6)).keys() | network.costs((3, 6, 6)).keys()


def test_an_image_that_does_not_fit_is_said():
    model = prepared_network(lambda: build("mlp", 3, 5, {"depth": 2, "width": 4}, image_size=6))
    with pytest.raises(CutError, match=r"MLP can't take an image of shape \(3, 8, 8\): "):
        open_network(model, image_shape=(3, 8, 8))
    with pytest.raises(CutError, match=r"MLP can't take an image of shape \(3, 8, 8\): "):
        TracedNetwork(model).shapes((3, 8, 8))
