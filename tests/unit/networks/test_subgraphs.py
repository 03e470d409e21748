from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from stitch_sweep.networks.cutting.hooks import HookedNetwork, open_network
from stitch_sweep.networks.cutting.tracing import (
    CutError,
    TracedNetwork,
    create_sub_network,
    cut_points,
    layers,
)
from stitch_sweep.networks.external.preprocessing import Imported
from stitch_sweep.networks.families.building import build, resolve


def ours(name: str, width: int) -> Callable[[], nn.Module]:
    family, options = resolve(name)
    return lambda: build(family, 3, 10, {**options, "width": width})


def from_torchvision(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision.models, name)(weights=None, num_classes=10, **options)


# Factory, image size, and how many cut points there are at least.
NETWORKS = {
    "resnet1111": (ours("resnet1111", 4), 16, 13),
    "resnet1122": (ours("resnet1122", 3), 16, 17),
    "our resnet18": (ours("resnet18", 2), 16, 21),
    "torchvision resnet18": (from_torchvision("resnet18"), 32, 22),
    "mobilenet_v3_small": (from_torchvision("mobilenet_v3_small"), 32, 30),
    "vgg11_bn": (from_torchvision("vgg11_bn"), 32, 36),
    "densenet121": (from_torchvision("densenet121"), 32, 20),
    "googlenet": (
        from_torchvision("googlenet", init_weights=False, aux_logits=False),
        64,
        20,
    ),
    "efficientnet_b0": (from_torchvision("efficientnet_b0"), 32, 40),
    "convnext_tiny": (from_torchvision("convnext_tiny"), 32, 30),
    "swin_t": (from_torchvision("swin_t"), 64, 20),
    "vit_b_16": (from_torchvision("vit_b_16", image_size=32), 32, 12),
    "shufflenet_v2_x0_5": (from_torchvision("shufflenet_v2_x0_5"), 32, 10),
    "squeezenet1_1": (from_torchvision("squeezenet1_1"), 64, 20),
    "mnasnet0_5": (from_torchvision("mnasnet0_5"), 32, 40),
    "regnet_y_400mf": (from_torchvision("regnet_y_400mf"), 32, 20),
}


def ready(factory: Callable[[], nn.Module]) -> nn.Module:
    """An untrained network in eval mode whose BatchNorm statistics are not 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = factory()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def images(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


def state(model: nn.Module) -> tuple[object, ...]:
    """Everything of a model that cutting must leave alone."""
    values = hashlib.sha256()
    for value in model.state_dict().values():
        values.update(value.numpy().tobytes())
    return (
        values.hexdigest(),
        [(path, module.training) for path, module in model.named_modules()],
        [getattr(module, "inplace", None) for module in model.modules()],
        [sorted(module.__dict__) for module in model.modules()],
        [id(value) for value in model.state_dict(keep_vars=True).values()],
    )


def check_every_cut(model: nn.Module, x: torch.Tensor) -> list[str]:
    """Assert that every cut of `model` is exact and safe; the cut points' names."""
    before, original = state(model), x.clone()
    with torch.no_grad():
        expected = model(x.clone())
        network = TracedNetwork(model)
        for point in network.cut_points:
            prefix = network.sub_network(None, point.name)
            suffix = network.sub_network(point.name, None)
            at_cut = prefix(x)
            kept = at_cut.clone()
            assert torch.equal(suffix(at_cut), expected), point
            assert torch.equal(at_cut, kept), point
            assert torch.equal(prefix(x), kept), point
            assert torch.equal(x, original), point
            joined = {id(p) for p in (*prefix.parameters(), *suffix.parameters())}
            assert joined <= {id(p) for p in model.parameters()}, point
    assert state(model) == before
    names = [point.name for point in network.cut_points]
    assert len(set(names)) == len(names)
    return names


@pytest.mark.parametrize("name", NETWORKS)
def test_every_cut_is_exact_and_safe(name):
    factory, size, at_least = NETWORKS[name]
    names = check_every_cut(ready(factory), images(size))
    assert len(names) >= at_least, names


@pytest.mark.parametrize("name", ["torchvision resnet18", "mobilenet_v3_small"])
def test_the_test_network_depends_on_its_statistics(name):
    # Were they 0 and 1, a suffix that lost its buffers would pass.
    factory, size, _ = NETWORKS[name]
    model = ready(factory)
    with torch.no_grad():
        expected = model(images(size))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        assert not torch.allclose(model(images(size)), expected)


class InPlace(nn.Module):
    """A small network that works in place in every way there is."""

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
    names = check_every_cut(ready(InPlace), images(8))
    assert "conv1" in names
    assert "relu" in names
    assert "conv2" in names


def test_an_image_is_not_written_to():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1), nn.Flatten()).eval()
    check_every_cut(model, images(4))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vgg11_bn"])
def test_without_the_copy_a_suffix_overwrites_the_prefix(name, monkeypatch):
    factory, size, _ = NETWORKS[name]
    monkeypatch.setattr(TracedNetwork, "_writes_into", lambda self, start, nodes: False)
    with pytest.raises(AssertionError):
        check_every_cut(ready(factory), images(size))


def test_a_copy_is_made_only_where_it_is_needed():
    model = ready(NETWORKS["torchvision resnet18"][0])
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
    model, x = ready(factory), images(size)
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
    model = ready(ours("resnet1122", 2))
    found = layers(model)
    assert [layer.index for layer in found] == list(range(7))
    assert [layer.name for layer in found][:3] == ["relu", "layer1.0", "layer2.0"]
    assert layers(model, layer_names=["conv1", "layer4.1"])[1].name == "layer4.1"


def test_layers_without_names_are_all_cut_points():
    model = ready(NETWORKS["torchvision resnet18"][0])
    assert [layer.name for layer in layers(model)] == [point.name for point in cut_points(model)]


def test_indices_names_and_aliases_mean_the_same():
    model, x = ready(ours("resnet1111", 2)), images(16)
    with torch.no_grad():
        by_index = create_sub_network(model, -1, 2)(x)
        for name in ("layer2.0", "layer2", "layer2.0.relu2", "layer2_0_relu2", "%layer2_0_relu2"):
            assert torch.equal(create_sub_network(model, None, name)(x), by_index)
        named = create_sub_network(model, 0, 1, layer_names=["conv1", "layer2.0"])
        assert torch.equal(named(model.conv1(x)), by_index)
        assert torch.equal(create_sub_network(model, None, "fc")(x), model(x))


def test_the_same_place_twice_is_the_identity():
    model, x = ready(ours("resnet1111", 2)), images(16)
    for place in (-1, 0, 4, "avgpool", "fc"):
        part = create_sub_network(model, place, place)
        assert part(x) is x
        assert not list(part.parameters())


def test_shapes():
    model = ready(ours("resnet1111", 2)).train()
    before = state(model)
    shapes = TracedNetwork(model).shapes((3, 16, 16))
    assert shapes["layer2.0"] == (4, 8, 8)
    assert shapes["flatten"] == (16,)
    assert set(shapes) == {point.name for point in cut_points(model)}
    assert state(model) == before


def test_layers_have_shapes_under_the_names_they_were_given():
    model = ready(ours("resnet1111", 2))
    network = TracedNetwork(model, layer_names=["relu", "layer2", "flatten"])
    shapes = network.shapes((3, 16, 16))
    assert shapes["layer2"] == shapes["layer2.0"]
    assert [shapes[layer.name] for layer in network.layers] == [(2, 16, 16), (4, 8, 8), (16,)]


def test_a_cut_through_a_skip_is_refused_and_the_skip_named():
    model = ready(ours("resnet1122", 2))
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
    model = ready(from_torchvision("densenet121"))
    with pytest.raises(CutError, match=r"used again after it.*; and \d+ more"):
        create_sub_network(model, None, "features.denseblock1.denselayer6.conv2")


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (None, "layer9.0", "did you mean 'layer"),
        (None, "zzz", "allowed: .*'?layer1.0"),
        (7, None, "no layer 7.*layers 0 to 4"),
        (-2, None, "no layer -2.*-1 is the image"),
        (3, 1, "swap"),
        ("avgpool", 0, "swap"),
        (4, -1, "swap"),
    ],
)
def test_wrong_places_are_refused(start, end, message):
    model = ready(ours("resnet1111", 2))
    with pytest.raises(CutError, match=message):
        create_sub_network(model, start, end)


def test_a_module_that_runs_twice_must_be_named_by_run():
    model = ready(NETWORKS["torchvision resnet18"][0])
    with pytest.raises(CutError, match=r"runs 2 times.*layer1_0_relu_1"):
        create_sub_network(model, None, "layer1.0.relu")
    create_sub_network(model, None, "layer1_0_relu_1")


def test_layer_names_must_be_cuts_in_order():
    model = ready(ours("resnet1111", 2))
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
    before = state(model)
    with pytest.raises(CutError, match=r"(?s)TraceError in 1 \(Block\).*x\.sum\(\) > 0"):
        cut_points(model)
    assert state(model) == before


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
    assert check_every_cut(ready(Optional), images(4)) == ["conv", "mul"]


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

    model = ready(Shared)
    model.double().float()
    assert check_every_cut(model, images(4)) == ["mul", "relu", "add", "add_1"]
    for start, end in ((None, "relu"), ("relu", None)):
        part = create_sub_network(model, start, end)
        assert next(part.parameters()) is model.scale


def test_a_tuple_is_no_cut_point():
    class Split(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = x.relu().chunk(2, dim=3)
            return (a + b).flatten(1)

    assert check_every_cut(Split().eval(), images(4)) == ["relu", "add"]
    with pytest.raises(CutError, match="not a single tensor"):
        create_sub_network(Split(), None, "chunk")


def test_modes_are_shared_and_kept():
    model = ready(ours("resnet1111", 2)).train()
    model.layer1.eval()
    before = state(model)
    part = create_sub_network(model, 0, 2)
    assert state(model) == before
    assert part.training
    assert not part.get_submodule("layer1.0.bn1").training
    assert part.get_submodule("layer2.0.bn1") is model.layer2[0].bn1


def test_gradients_reach_the_input_and_match():
    model, x = ready(NETWORKS["torchvision resnet18"][0]), images(32).requires_grad_()
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    network = TracedNetwork(model)
    y = network.sub_network("bn1", None)(network.sub_network(None, "bn1")(x))
    (found,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(found, expected)


def test_a_part_can_be_pickled():
    model, x = ready(InPlace), images(8)
    part = create_sub_network(model, "conv1", None)
    copy = pickle.loads(pickle.dumps(part))
    with torch.no_grad():
        at_cut = model.conv1(x)
        assert torch.equal(copy(at_cut), model(x))


# One layer per block, and what lies on both sides of a cut


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
    model = ready(ours("resnet1122", 2))
    assert layers(model, layer_names="auto") == layers(model)


def test_what_lies_before_and_after_a_cut_is_the_whole():
    model = ready(NETWORKS["torchvision resnet18"][0])
    network = TracedNetwork(model)
    costs = network.costs((3, 32, 32))
    assert list(costs) == [point.name for point in network.cut_points]
    total = sum(p.numel() for p in model.parameters())
    assert {c.params_before + c.params_after for c in costs.values()} == {total}
    assert len({c.mult_adds_before + c.mult_adds_after for c in costs.values()}) == 1
    # By hand: the stem's 7x7 convolution with stride 2, the head's matrix.
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


class Branching(nn.Module):
    """What torch.fx can't trace, with a skip over `two` and `three`, and in-place operations."""

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
    model, x = ready(Branching), images(6)
    before, original = state(model), x.clone()
    network = open_network(model, image_shape=(3, 6, 6))
    assert isinstance(network, HookedNetwork)
    names = [point.name for point in network.cut_points]
    # Not two and three (one crosses), not twice (which run?), not fc (the output).
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
    assert state(model) == before
    costs = network.costs((3, 6, 6))
    assert costs["one"].params_before == 4 * 27 + 4
    assert costs["one"].mult_adds_before == 4 * 27 * 36
    total = sum(p.numel() for p in model.parameters())
    assert {c.params_before + c.params_after for c in costs.values()} == {total}
    assert network.shapes((3, 6, 6)) == dict.fromkeys(names, (4, 6, 6))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two", "other tensors cross there.*can't trace Branching.*isnan"),
        ("twice", "no submodule 'twice' that runs once"),
        ("fc", "it is the network's output"),
        ("fuor", "did you mean 'four'"),
    ],
)
def test_hooks_refuse_other_places(name, message):
    network = open_network(ready(Branching), image_shape=(3, 6, 6))
    with pytest.raises(CutError, match=f"(?s){message}"):
        network.sub_network(None, name)


class Remembering(nn.Module):
    """Asks the image something before its stem and acts on the answer after it."""

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
    model = ready(lambda: Remembering(asks))
    smooth = torch.linspace(-1, 1, 6).expand(2, 3, 6, 6)
    message = f"(?s)no cut behind 'stem': other tensors cross there for {kind}, though not for"
    with pytest.raises(CutError, match=message):
        open_network(model, layer_names=["stem"], image_shape=(3, 6, 6), images=smooth)
    found = open_network(model, layer_names="auto", image_shape=(3, 6, 6), images=smooth)
    assert [layer.name for layer in found.layers] == ["body"]


def test_without_the_trial_hooks_would_cut_a_skip(monkeypatch):
    monkeypatch.setattr(HookedNetwork, "_why_not", lambda self, path: "")
    network = open_network(ready(Branching), layer_names=["one", "two"], image_shape=(3, 6, 6))
    x = images(6)
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

    with pytest.raises(
        CutError, match=r"(?s)x\.sum\(\) < 1e9.*With hooks there is no place either"
    ):
        open_network(Whole().eval(), image_shape=(3, 4, 4))


class ChannelsLast(nn.Module):
    """Like Swin: [B, H, W, C] between its layers, the last of which works in place."""

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
    model, x = Imported(ready(lambda: ChannelsLast(branches)), None, (3, 8, 8)).eval(), images(8)
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


# What torch's own modules keep together


class Encoded(nn.Module):
    """A transformer as it is written by hand; with a mask, torch.fx can't look into the encoder."""

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
    model = ready(factory)
    assert [layer.name for layer in layers(model, layer_names="auto")] == auto
    assert set(check_every_cut(model, images(6))) >= set(auto)


def test_what_torch_keeps_together_is_cut_with_hooks_where_that_goes():
    model, x = ready(lambda: Encoded(masked=True)), images(6)
    message = (
        "torch.fx takes 'enc' .TransformerEncoder. of Encoded as one, and 'enc.layers.0' is in"
    )
    with pytest.raises(CutError, match=message):
        TracedNetwork(model, layer_names=["enc.layers.0"])
    with pytest.raises(CutError, match="torch computes it in another way"):
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


# Values that only look like cut points


class Largest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).max(dim=2).values.mean(1))


def test_a_tuple_with_names_is_no_cut_point():
    names = [point.name for point in cut_points(ready(Largest))]
    assert names == ["conv", "getattr_1", "mean"]
    with pytest.raises(CutError, match="no cut at 'max_1': it is not a single tensor"):
        layers(ready(Largest), layer_names=["max_1"])


def test_what_only_a_run_shows_to_be_no_tensor_is_refused():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.stack(torch.aminmax(self.conv(x), dim=2)).mean((0, 3)))

    model = ready(Scaled)
    assert "aminmax" in [point.name for point in cut_points(model)]
    message = "no cut at 'aminmax': it is a aminmax, not a single tensor"
    with pytest.raises(CutError, match=message):
        TracedNetwork(model, layer_names=["aminmax"]).shapes((3, 6, 6))
    with pytest.raises(CutError, match=message):
        TracedNetwork(model, layer_names=["aminmax"], image_shape=(3, 6, 6))
    network = TracedNetwork(model, image_shape=(3, 6, 6))
    assert "aminmax" not in network.shapes((3, 6, 6)).keys() | network.costs((3, 6, 6)).keys()


class SequenceFirst(nn.Module):
    """[T, B, D] between its layers, which torch's transformers expect if not told otherwise."""

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
    model = ready(lambda: SequenceFirst(branches))
    network = open_network(model, layer_names="auto", image_shape=(3, 6, 6))
    assert isinstance(network, HookedNetwork) == branches
    assert [layer.name for layer in network.layers] == ["patch"]
    message = (
        r"'body': its first axis is not that of the images: for one it is \[9, 1, 8\], for two"
    )
    with pytest.raises(CutError, match=message):
        open_network(model, layer_names=["body"], image_shape=(3, 6, 6))


def test_an_image_that_does_not_fit_is_said():
    model = ready(lambda: build("mlp", 3, 5, {"depth": 2, "width": 4}, image_size=6))
    with pytest.raises(CutError, match=r"MLP can't take an image of shape \(3, 8, 8\): "):
        open_network(model, image_shape=(3, 8, 8))
    with pytest.raises(CutError, match=r"MLP can't take an image of shape \(3, 8, 8\): "):
        TracedNetwork(model).shapes((3, 8, 8))


def test_every_cut_of_swin_gives_channels_first():
    model = Imported(ready(NETWORKS["swin_t"][0]), None, (3, 64, 64)).eval()
    check_every_cut(model, images(64))
    shapes = TracedNetwork(model).shapes((3, 64, 64))
    maps = {shape for shape in shapes.values() if len(shape) == 3}
    assert maps >= {(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)}
    assert all(c > h == w for c, h, w in maps)
