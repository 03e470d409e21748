"""Facts of every network family: shapes, skips that are there or not, and first weights.

tests/process/networks/test_families.py has their cuts and trainings, which take longer.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.densenet import _DenseBlock, _Transition
from torchvision.models.vision_transformer import EncoderBlock

from stitch_sweep.config.networks import NetworkConfig
from stitch_sweep.config.reading import read_config
from stitch_sweep.config.root import Config
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import FAMILIES
from stitch_sweep.data.images import Data
from stitch_sweep.measuring.networks import find_networks
from stitch_sweep.measuring.permissions import Permissions
from stitch_sweep.networks.cutting.traced import cut_points
from stitch_sweep.networks.describe import describe
from stitch_sweep.networks.families.building import NAME_FORMS, build, resolve
from stitch_sweep.networks.families.densenet import DenseLayer
from stitch_sweep.networks.pretraining import train_network
from stitch_sweep.networks.recipes import make_recipe
from stitch_sweep.networks.weights.fitting import load_from_file
from stitch_sweep.networks.zoo import Zoo, load
from stitch_sweep.plan.prepare import prepare
from tests.support.families import VARIANTS, every_variant, images, network
from tests.support.paths import ROOT

RECIPES = ROOT / "experiments/cifar10/families"


def shapes(variant: str, channels: int = 3, size: int = 16, **options: Any) -> list[tuple]:
    model = network(variant, channels, size, **options)
    found = describe(model, (channels, size, size))
    assert found.no_layers == ""
    return [layer.shape for layer in found.layers]


# --- layers -------------------------------------------------------------------------------------


def test_every_family_is_among_the_variants():
    assert {family for family, _ in VARIANTS.values()} == set(FAMILIES.names())


def test_resnet_shapes_are_the_same_with_and_without_skips(subtests):
    for skip in ("residual", "none"):
        for channels, size in ((3, 32), (1, 15)):
            with subtests.test(f"{skip}, {channels}, {size}"):
                sizes = [size, size, -(-size // 2), -(-size // 2), -(-size // 4), -(-size // 8)]
                widths = [4, 4, 8, 8, 16, 32]
                assert shapes("resnet", channels, size, skip=skip) == [
                    (w, s, s) for w, s in zip(widths, sizes, strict=True)
                ]


def test_densenet_shapes_are_the_same_whatever_is_skipped(subtests):
    for skips in ("dense", "last", "none"):
        for channels, size, k in ((3, 32, 4), (1, 15, 6)):
            with subtests.test(f"{skips}, {channels}, {size}, {k}"):
                # The stem has 2 k channels, a layer adds k, a transition halves them, rounding down.
                first = [2 * k, 3 * k, 4 * k]
                second = [2 * k + k * n for n in (1, 2, 3)]
                third = [5 * k // 2 + k]
                expected = [(c, size, size) for c in first]
                expected += [(c, size // 2, size // 2) for c in second]
                expected += [(c, size // 4, size // 4) for c in third]
                assert shapes("densenet", channels, size, width=k, skips=skips) == expected


def test_vgg_shapes(subtests):
    for channels, size in ((3, 32), (1, 15)):
        with subtests.test(f"{channels}, {size}"):
            sides = [size, size // 2, size // 2, size // 4, size // 4]
            widths = [4, 8, 8, 16, 16]
            assert shapes("vgg", channels, size) == [
                (w, s, s) for w, s in zip(widths, sides, strict=True)
            ]


def test_vgg_is_never_wider_than_eight_times_its_first_stage():
    found = shapes("vgg", size=32, blocks=[1, 1, 1, 1, 1], width=3)
    assert [shape[0] for shape in found] == [3, 6, 12, 24, 24]


def test_cnn_shapes(subtests):
    for depth, stages in ((1, [0]), (2, [0, 1]), (4, [0, 0, 1, 2]), (6, [0, 0, 1, 1, 2, 2])):
        for size in (32, 15):
            with subtests.test(f"{depth}, {stages}, {size}"):
                sides = [size, -(-size // 2), -(-size // 4)]
                assert shapes("cnn", 1, size, depth=depth, width=5) == [
                    (5 * 2**s, sides[s], sides[s]) for s in stages
                ]


def test_mlp_shapes():
    assert shapes("mlp", 1, 9, depth=4, width=7) == [(7,)] * 4


def test_vit_shapes(subtests):
    for size, patch in ((32, 8), (15, 5), (4, 4)):
        for class_token in (True, False):
            with subtests.test(f"{size}, {patch}, {class_token}"):
                tokens = (size // patch) ** 2 + class_token
                found = shapes("vit", 1, size, patch=patch, class_token=class_token, depth=3)
                assert found == [(tokens, 12)] * 4


@every_variant
def test_no_module_works_in_place(variant):
    assert not any(getattr(module, "inplace", False) for module in network(variant).modules())


# --- skips --------------------------------------------------------------------------------------


def leaves(model: nn.Module) -> set[str]:
    """Return the paths of all convolutions, normalizations and activations."""
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)
    return {path for path, module in model.named_modules() if isinstance(module, kinds)}


def places(model: nn.Module) -> set[str]:
    """Return every name and alias of the network's cut points."""
    points = cut_points(model)
    return {name for point in points for name in (point.name, *point.aliases)}


def test_without_skips_every_place_is_a_cut_point(subtests):
    for variant, sequential in (
        ("resnet", False),
        ("resnet plain", True),
        ("densenet", False),
        ("densenet last", False),
        ("densenet none", True),
        ("vgg", True),
        ("cnn", True),
    ):
        with subtests.test(f"{variant}, {sequential}"):
            model = network(variant)
            assert (leaves(model) <= places(model)) == sequential
            assert set(model.layer_names) <= places(model)


def test_only_skips_go_past_a_block_that_gives_nothing(subtests):
    for variant, goes_past in (
        ("resnet", True),
        ("resnet plain", False),
        ("densenet", True),
        ("densenet last", True),
        ("densenet none", False),
    ):
        with subtests.test(f"{variant}, {goes_past}"):
            model = network(variant).eval()
            for path, module in model.named_modules():
                if path.endswith(
                    ("bn2", "conv2")
                ):  # the last of a ResNet's and of a DenseNet's block
                    nn.init.zeros_(module.weight)
            logits = model(images())
            assert torch.equal(logits, logits[:1].expand_as(logits)) != goes_past


@pytest.mark.parametrize(
    ("skips", "read"), [("dense", range(8)), ("last", range(4, 8)), ("none", range(8))]
)
def test_what_a_dense_layer_reads(skips, read):
    """The gradient of its new channels is nonzero exactly for the channels that it reads."""
    layer = DenseLayer(8, 4, skips, first=False).eval()
    x = images(8, 5).requires_grad_()
    y = layer(x)
    kept = 0 if skips == "none" else 8
    assert torch.equal(y[:, :kept], x[:, :kept])
    (gradient,) = torch.autograd.grad(y[:, kept:].square().sum(), x)
    assert [c for c in range(8) if gradient[:, c].any()] == list(read)


def test_the_first_layer_of_a_block_reads_all_of_it():
    x = images(8, 5).requires_grad_()
    y = DenseLayer(8, 4, "last", first=True).eval()(x)
    (gradient,) = torch.autograd.grad(y[:, 8:].square().sum(), x)
    assert all(gradient[:, c].any() for c in range(8))


# --- the same as others' ------------------------------------------------------------------------


def copied(source: nn.Module, into: nn.Module) -> None:
    """Set random weights and statistics in `source`, and copy them in order to `into`."""
    generator = torch.Generator().manual_seed(3)
    mine, theirs = source.state_dict(), into.state_dict()
    assert len(mine) == len(theirs)
    for value, other in zip(mine.values(), theirs.values(), strict=True):
        if value.is_floating_point():
            value.uniform_(0.2, 0.4, generator=generator)
            value.mul_(
                torch.randn(value.shape, generator=generator).sign() if value.ndim > 1 else 1
            )
        other.copy_(value.reshape(other.shape))


@pytest.mark.parametrize("training", [True, False])
def test_a_dense_block_and_a_transition_are_torchvisions(training):
    model = network("densenet")
    features = dict(model.features.named_children())
    block = _DenseBlock(3, 8, bn_size=4, growth_rate=4, drop_rate=0.0)
    copied(features["block2"], block)
    transition = _Transition(16, 8)
    copied(features["transition1"], transition)
    for ours, theirs, given in (
        (features["block2"], block, images(8, 6)),
        (features["transition1"], transition, images(16, 6)),
    ):
        torch.testing.assert_close(ours.train(training)(given), theirs.train(training)(given))


def test_vgg_is_torchvisions_before_its_last_pool():
    ours = build("vgg", 3, 10, {"blocks": [1, 1, 2, 2, 2], "width": 64}).eval()
    theirs = torchvision.models.vgg11_bn(weights=None).features[:-1].eval()
    convolutions = [m for m in theirs if isinstance(m, nn.Conv2d)]
    for module in convolutions:  # a bias before a BatchNorm changes nothing but its mean
        module.bias = None
    copied(ours.features, theirs)
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, nn.Conv2d):
            module.weight.data /= module.weight[0].numel()
    x = images(3, 32, 1)
    torch.testing.assert_close(ours.features(x), theirs(x))


def test_an_encoder_block_is_torchvisions():
    ours = network("vit").blocks[0]
    theirs = EncoderBlock(3, 12, 48, dropout=0.0, attention_dropout=0.0)
    copied(ours, theirs)
    x = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours(x), theirs.train()(x))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_named_densenets_have_the_parameters_of_torchvisions(subtests):
    for name in ("densenet121", "densenet169", "densenet201"):
        with subtests.test(str(name)):
            family, options = resolve(name)
            with torch.device("meta"):
                ours = build(family, 3, 1000, options)
                theirs = getattr(torchvision.models, name)(weights=None)
            stem = parameters(theirs.features.conv0) + parameters(theirs.features.norm0)
            assert parameters(ours) - parameters(ours.stem) == parameters(theirs) - stem


def test_named_vggs_have_the_parameters_of_torchvisions(subtests):
    for name in ("vgg11", "vgg13", "vgg16", "vgg19"):
        with subtests.test(str(name)):
            family, options = resolve(name)
            with torch.device("meta"):
                ours = build(family, 3, 10, options)
                theirs = getattr(torchvision.models, f"{name}_bn")(weights=None).features
            biases = sum(m.bias.numel() for m in theirs if isinstance(m, nn.Conv2d))
            assert parameters(ours.features) == parameters(theirs) - biases


def test_vit_base_has_the_parameters_of_torchvisions():
    family, options = resolve("vit_base")
    with torch.device("meta"):
        ours = build(family, 3, 1000, {**options, "patch": 16}, image_size=224)
        theirs = torchvision.models.vit_b_16(weights=None)
    assert parameters(ours) == parameters(theirs)


# --- first weights ------------------------------------------------------------------------------


@every_variant
def test_weights_follow_the_seed(variant):
    first, again = (network(variant).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


# --- sizes --------------------------------------------------------------------------------------

LADDERS: dict[str, list[dict[str, Any]]] = {
    "resnet": [{"blocks": [1, 1, 1, n]} for n in (1, 2, 4)],
    "densenet": [{"blocks": [1, 1, n]} for n in (1, 2, 4)],
    "vgg": [{"blocks": [1, 1, n]} for n in (1, 2, 4)],
    **{family: [{"depth": n} for n in (3, 4, 8)] for family in ("cnn", "mlp", "vit")},
}


@every_variant
def test_more_width_and_more_depth_are_more_parameters(variant):
    widths = [parameters(network(variant, width=width)) for width in (6, 12, 24)]
    depths = [parameters(network(variant, **rung)) for rung in LADDERS[VARIANTS[variant][0]]]
    for found in (widths, depths):
        assert all(less < more for less, more in itertools.pairwise(found))


def configured(tmp_path, *networks: dict[str, Any], **other: Any) -> Config:
    named = [{"name": f"n{k}", **network} for k, network in enumerate(networks)]
    return Config.model_validate(
        {
            "data": {"name": "digits", "image_size": 16, "train_images": 300, "test_images": 120},
            "networks": named,
            "pairs": [{"sender": "n0", "receiver": named[-1]["name"]}],
            "stitch": {"name": "conv1x1"},
            "zoo": str(tmp_path / "zoo"),
            **other,
        }
    )


@every_variant
def test_its_sizes_on_a_ladder(variant, digits: Data, tmp_path):
    family, options = VARIANTS[variant]
    rungs = [
        {"family": family, "weights": "random_raw", **options, "width": width, **rung}
        for width, rung in zip((6, 12, 24), LADDERS[family], strict=True)
    ]
    permissions = Permissions(tmp_path)
    found = find_networks(configured(tmp_path, *rungs), digits, {}, permissions)
    rows = list(found.rows.values())
    layers = [len(network(variant, **rung).layer_names) for rung in LADDERS[family]]
    assert [row["depth"] for row in rows] == [count - 1 for count in layers]
    assert [row["width"] for row in rows] == [6, 12, 24]
    assert all(b["parameters"] > a["parameters"] for a, b in itertools.pairwise(rows))


# --- identities ---------------------------------------------------------------------------------


def test_a_resnet_with_its_skips_is_described_as_before_they_could_be_left_out(digits, tmp_path):
    usual = {"family": "resnet1111", "width": 4}
    config = configured(tmp_path, usual, {**usual, "skip": "residual"}, {**usual, "skip": "none"})
    plain, written, without = config.networks
    assert plain.options == written.options == {"blocks": [1, 1, 1, 1], "width": 4}
    assert without.options == {"blocks": [1, 1, 1, 1], "width": 4, "skip": "none"}
    assert "skip" not in plain.model_dump()
    recipes = [make_recipe(network, config, digits) for network in config.networks]
    assert recipes[0].hash == recipes[1].hash != recipes[2].hash
    assert NetworkConfig.model_validate(without.model_dump()) == without


@pytest.mark.parametrize("variant", ["mlp", "vit", "densenet none"])
def test_the_zoo_stores_and_loads_it(variant, digits: Data, tmp_path):
    family, options = VARIANTS[variant]
    config = configured(tmp_path, {"family": family, "weights": "random", **options})
    zoo, recipe = Zoo(config.zoo), make_recipe(config.networks[0], config, digits)
    entry = zoo.ensure(recipe, lambda recipe, resume: train_network(recipe, digits, threads=1))
    weights = entry.folder / "weights.safetensors"
    other = config.networks[0].model_copy(update={"weights": str(weights)})
    again, from_file = load(entry.folder), load_from_file(other, digits)
    x = images(1)
    assert torch.equal(again(x), from_file(x))


# --- recipes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES.names())
def test_its_recipe_is_valid_and_all_its_cells_can_be_joined(family):
    """Uses handwritten digits of the size of CIFAR-10's images, which need no download."""
    digits = {"name": "digits", "image_size": 32}
    config = read_config(RECIPES / family / "config.yml", {"data": digits})
    assert {network.family for network in config.networks} == {family}
    variants = {str(network.options) for network in config.networks}
    assert len(variants) == sum(name == family for name, _ in VARIANTS.values())
    assert prepare(config).studies


# --- input that can't be used -------------------------------------------------------------------


def test_what_no_network_can_be_is_refused(subtests):
    for family, options, size, message in (
        ("vit", {"depth": 1, "width": 10, "heads": 3}, 16, "heads: 3 .* allowed: 1, 2, 5, 10"),
        ("vit", {"depth": 1, "patch": 5}, 16, "patch: images of 16x16 .* allowed: 1, 2, 4, 8, 16"),
        ("vgg", {"blocks": [1, 1, 1, 1]}, 7, "vgg, blocks: 4 stages .* images of 8x8 or larger"),
        ("densenet", {"blocks": [1, 1, 1]}, 3, "densenet, blocks: 3 stages .* images of 4x4"),
        ("densenet", {"blocks": []}, 32, "blocks"),
        ("densenet", {"blocks": [1], "skips": "all"}, 32, "'dense', 'last' or 'none'"),
        ("resnet", {"blocks": [1, 1, 1, 1], "skip": "dense"}, 32, "'residual' or 'none'"),
        ("cnn", {"depth": 0}, 32, "depth"),
        ("cnn", {}, 32, "depth: Field required"),
        ("mlp", {"depth": 1, "width": 0}, 32, "width"),
        ("vit", {"depth": 1, "class_token": "yes"}, 32, "class_token"),
    ):
        with subtests.test(f"{family}, {options}"), pytest.raises(InputError, match=message):
            build(family, 3, 10, options, image_size=size)


def test_it_is_refused_at_its_place_before_anything_trains(tmp_path):
    config = configured(
        tmp_path,
        {"family": "vit4", "patch": 5},
        {"family": "vgg", "blocks": [1] * 5, "width": 2},
        data={"name": "digits", "image_size": 8},
    )
    with pytest.raises(InputError) as refused:
        prepare(config)
    first, second = refused.value.problems
    assert first.startswith("networks[0]: network family vit, patch: ")
    assert second.startswith("networks[1]: network family vgg, blocks: ")


def test_names_resolve(subtests):
    for name, family, options in (
        ("densenet100", "densenet", {"blocks": [16, 16, 16]}),
        ("vgg16", "vgg", {"blocks": [2, 2, 3, 3, 3]}),
        ("cnn6", "cnn", {"depth": 6}),
        ("mlp12", "mlp", {"depth": 12}),
        ("vit3", "vit", {"depth": 3}),
        ("vit_tiny", "vit", {"depth": 12, "width": 192, "heads": 3}),
    ):
        with subtests.test(f"{name}, {family}, {options}"):
            assert resolve(name) == (family, options)
            assert FAMILIES.resolve(name) == (family, options)


def test_other_names_are_refused_with_all_forms(subtests):
    for name in ("cnn", "cnn0", "mlp100", "vit", "vgg12", "densenet", "vit_huge"):
        with subtests.test(str(name)):
            with pytest.raises(InputError) as refused:
                resolve(name)
            assert all(form in str(refused.value) for form in NAME_FORMS)
