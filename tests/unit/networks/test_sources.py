"""Networks from elsewhere: torchvision, timm, a function in a file; what each must be refused for."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray.cloudpickle
import torch
import torchvision
import yaml
from safetensors.torch import save_file
from torch.nn import functional

from stitch_sweep.config.models import Config
from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.core.errors import InputError
from stitch_sweep.data.augmentation import normalise
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.measuring.networks import find_networks
from stitch_sweep.measuring.permissions import Permissions
from stitch_sweep.networks import construction as sources
from stitch_sweep.networks.cutting.tracing import CutError
from stitch_sweep.networks.describe import cut_table, describe, describe_cut
from stitch_sweep.networks.evaluation import evaluate
from stitch_sweep.networks.external.naming import by_name
from stitch_sweep.networks.external.preprocessing import Imported, Preprocessing
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.networks.zoo import Zoo, load, load_from_file, make_recipe, train_network
from stitch_sweep.plan.prepare import prepare, provide_networks
from stitch_sweep.storage.checkpoints import fingerprint
from stitch_sweep.sweep.single import run_pair
from tests.support.paths import ROOT
from tests.support.sweeps import run

MINE = '''
"""A network written by hand, which knows nothing of Stitch Sweep."""
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


class Mine(nn.Module):
    def __init__(self, channels, colours=1, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(colours, channels, 3, padding=1)
        self.blocks = nn.Sequential(Block(channels), Block(channels))
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(x.mean((2, 3)))


class Noisy(Mine):
    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(torch.nn.functional.dropout(x.mean((2, 3))))


class DropsAlways(nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x, 0.5, training=True)


class NoisyInside(Mine):
    def __init__(self, channels):
        super().__init__(channels)
        self.blocks.append(DropsAlways())


class Branches(Mine):
    def forward(self, x):
        if x.sum() > 1e9:
            return self.head(x.mean((2, 3)))
        return super().forward(x)


class Remembers(Mine):
    def forward(self, x):
        a_digit = 0.1 < float(x.diff().abs().mean()) < 0.9
        x = torch.relu(self.stem(x))
        x = self.blocks(x * 2 if a_digit else x)
        return self.head(x.mean((2, 3)))


class Counts(Mine):
    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def forward(self, x):
        x = torch.nn.functional.batch_norm(self.stem(x), self.mean, self.var, training=True)
        return self.head(self.blocks(x).mean((2, 3)))


class Pair(Mine):
    def forward(self, x):
        return super().forward(x), x


def make(channels=4, **options):
    return Mine(channels, **options)


def branches():
    return Branches(4)


def remembers():
    return Remembers(4)


def counts():
    return Counts(4)


def exits():
    raise SystemExit(2)


def noisy():
    return Noisy(4)


def noisy_inside():
    return NoisyInside(4)


def pair():
    return Pair(4)


def nothing():
    return {"not": "a module"}


def fails():
    raise RuntimeError("no such luck")
'''
DATA = {"name": "digits", "image_size": 8, "train_images": 200, "test_images": 50}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The file of somebody's network."""
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def tree(*networks: dict[str, Any], **sections: Any) -> dict[str, Any]:
    names = [network["name"] for network in networks]
    return {
        "data": DATA,
        "networks": list(networks),
        "pairs": [{"sender": names[0], "receiver": names[-1]}],
        "pretraining": {"epochs": 1, "batch_size": 32},
        "training": {"epochs": 1, "batch_size": 32},
        "tracking": {"enabled": False},
        **sections,
    }


def config(folder: Path, *networks: dict[str, Any], **sections: Any) -> Config:
    file = folder / "config.yml"
    content = tree(*networks, **sections)
    content.setdefault("zoo", str(folder / "zoo"))
    file.write_text(yaml.safe_dump(content))
    return read_config(file)


def python(factory: str, **keys: Any) -> dict[str, Any]:
    return {"name": "n", "source": "python", "factory": factory, "weights": "factory", **keys}


def refused(folder: Path, network: dict[str, Any], **sections: Any) -> str:
    with pytest.raises(InputError) as caught:
        prepare(config(folder, network, **sections))
    return str(caught.value)


# What lies before a network


def pixels(channels: int, size: int) -> torch.Tensor:
    shape = (3, channels, size, size)
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_network_sees_its_own_normalisation_of_the_same_pixels():
    mean, std = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.3, 0.25])
    own_mean, own_std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = pixels(3, 6)
    module = Preprocessing(
        6, None, (std / own_std).tolist(), ((mean - own_mean) / own_std).tolist()
    )
    found = module(normalise(x, mean, std))
    torch.testing.assert_close(found, normalise(x, own_mean, own_std), rtol=1e-5, atol=1e-5)
    assert not list(module.parameters())


@pytest.mark.parametrize(("size", "image_size"), [(8, 20), (20, 8), (7, 9)])
def test_resizing_is_linear_interpolation_with_antialiasing(size, image_size):
    x = pixels(2, size).float()
    found = Preprocessing(size, image_size)(x)
    expected = functional.interpolate(
        x, (image_size, image_size), mode="bilinear", antialias=image_size < size
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
    flat = Preprocessing(size, image_size)(torch.ones(1, 1, size, size))
    torch.testing.assert_close(flat, torch.ones(1, 1, image_size, image_size))


def test_a_grey_image_becomes_a_coloured_one():
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(Preprocessing(4, grey_to=3)(x), x.repeat(1, 3, 1, 1))


def test_the_places_of_a_network_keep_their_names_behind_its_preprocessing(mine, tmp_path):
    chosen = config(
        tmp_path,
        python(f"{mine}:make", normalisation={"mean": [0.5], "std": [0.25]}, image_size=12),
    )
    prepared = prepare(chosen)
    module = provide_networks(prepared)["n"]
    assert isinstance(module, Imported)
    frozen = FrozenNetwork(module)
    assert frozen.layer_names == ["relu", "blocks.0", "blocks.1"]
    assert prepared.outlines["n"].image == (1, 8, 8)
    assert prepared.outlines["n"].layers == [(4, 12, 12)] * 3
    # Layer -1 is the data's image; the suffix from there has the preprocessing, the others don't.
    x = normalise(prepared.data.test.images[:4], prepared.data.mean, prepared.data.std)
    with torch.no_grad():
        expected = module(x)
        assert torch.equal(frozen.suffix(-1)(x), expected)
        seen = (x * prepared.data.std + prepared.data.mean - 0.5) / 0.25
        resized = functional.interpolate(seen, (12, 12), mode="bilinear")
        torch.testing.assert_close(module.network(resized), expected, rtol=1e-4, atol=1e-4)
        for layer in range(3):
            assert torch.equal(frozen.suffix(layer)(frozen.prefix(layer)(x)), expected)
    before = fingerprint(module)
    module.expected_image.shift += 1
    assert fingerprint(module) != before


def test_the_gradient_reaches_the_image(mine, tmp_path):
    chosen = config(tmp_path, python(f"{mine}:make", image_size=12))
    module = provide_networks(prepare(chosen))["n"]
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    FrozenNetwork(module).suffix(-1)(x).sum().backward()
    assert x.grad.abs().sum() > 0


# Where networks come from


@pytest.mark.parametrize(
    "network",
    [
        {"source": "torchvision", "model": "resnet18"},
        {"source": "timm", "model": "resnet10t", "arguments": {"in_chans": 1}},
    ],
    ids=lambda network: network["source"],
)
def test_a_network_of_a_library_by_its_name(network, digits, tmp_path):
    if network["source"] == "timm":
        pytest.importorskip("timm")
    chosen = config(tmp_path, {"name": "n", **network, "weights": "random_raw", "image_size": 32})
    of = chosen.networks[0]
    torch.manual_seed(0)
    module = sources.build(of, digits).eval()
    frozen = FrozenNetwork(module)
    assert frozen.classifies
    assert len(frozen.layer_names) >= 5
    recipe = make_recipe(of, chosen, digits)
    assert recipe.folder.startswith(f"{network['source']}-{network['model']}-digits-random_raw-")
    assert json.loads(json.dumps(recipe.content)) == recipe.content
    torch.manual_seed(0)
    again = recipe.architecture()
    assert fingerprint(again) == fingerprint(module)


def test_weights_that_a_library_names_come_with_what_they_expect(digits, tmp_path, monkeypatch):
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    file = hub / weights.url.rpartition("/")[2]
    torch.save(state, file)
    network = {"name": "n", "source": "torchvision", "model": "squeezenet1_1"}
    chosen = config(tmp_path, {**network, "weights": "IMAGENET1K_V1"}).networks[0]
    assert chosen.kind == "named"
    module = sources.load(chosen, digits)
    assert all(torch.equal(v, state[k]) for k, v in module.network.state_dict().items())
    assert not module.classifies  # 1000 classes
    assert module.expected_image.resize.shape == (224, 16)
    assert module.expected_image.grey_to == 3
    # (pixel - mean) / std of ImageNet, for the data's own mean: what was trained with.
    black = -digits.mean / digits.std * torch.ones(1, 1, 16, 16)
    expected = -torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
    found = module.expected_image(black).mean((0, 2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    sprung = tmp_path / "sprung"
    file.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InputError, match=r"weights IMAGENET1K_V1: .*could not be made"):
        sources.load(chosen, digits)
    assert not sprung.exists()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_control_sees_what_its_network_sees(tmp_path):
    named = {"name": "n", "source": "torchvision", "model": "resnet18", "weights": "IMAGENET1K_V1"}
    controls = ["untrained_sender", "class_only"]
    of = config(tmp_path, named, controls=controls).networks
    assert [network.name for network in of] == ["n", "n-untrained", "n-class-only"]
    data = load_data(config(tmp_path, named).data)
    befores = [sources.blueprint(network, data)["preprocessing"] for network in of]
    assert befores[0]["image_size"] == 224
    assert befores[1] == befores[2] == befores[0]
    given = config(tmp_path, named | {"weights": "random", "expects": "IMAGENET1K_V1"}).networks[0]
    assert sources.blueprint(given, data)["preprocessing"] == befores[0]


def test_names_that_a_library_lacks_are_refused_with_the_nearest(tmp_path):
    known = {"name": "n", "source": "torchvision", "weights": "random_raw"}
    assert "did you mean 'resnet18'" in refused(tmp_path, {**known, "model": "resnet_18"})
    wrong = {**known, "model": "resnet18", "weights": "IMAGENET_V1"}
    assert "did you mean 'IMAGENET1K_V1'" in refused(tmp_path, wrong)
    unknown = {**known, "model": "resnet18", "arguments": {"num_clases": 3}}
    assert "num_clases" in refused(tmp_path, unknown)


def test_timm_is_optional(tmp_path, monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(sources.timm, "import_module", missing)
    network = {"name": "n", "source": "timm", "model": "resnet18", "weights": "random_raw"}
    assert r"pip install 'stitch-sweep[timm]'" in refused(tmp_path, network)


def test_a_name_with_an_address_in_it_is_not_followed(tmp_path):
    pytest.importorskip("timm")
    network = {"name": "n", "source": "timm", "model": "hf-hub:a/b", "weights": "random_raw"}
    assert "timm has no model 'hf-hub:a/b'" in refused(tmp_path, network)


# A network written by hand


def test_a_network_in_a_file_is_stitched_by_config_alone(mine, tmp_path):
    # As its author trained it: by itself, on pixels normalised in a way of its own.
    torch.manual_seed(0)
    author = sources.python.find(f"{mine}:make")(6)
    chosen = config(
        tmp_path,
        {"name": "ours", "family": "resnet1111", "width": 2, "weights": "random"},
        {
            "name": "mine",
            "source": "python",
            "factory": "./mine.py:make",
            "arguments": {"channels": 6},
            "weights": "mine.pt",
            "layers": ["blocks.0", "blocks.1"],
            "normalisation": {"mean": [0.5], "std": [0.5]},
        },
        resources={"cache_gb": 0.1},
    )
    data = load_data(chosen.data)
    x = data.train.images.float() / 255
    optimizer = torch.optim.Adam(author.parameters(), lr=0.02)
    for _ in range(15):
        optimizer.zero_grad()
        functional.cross_entropy(author((x - 0.5) / 0.5), data.train.labels).backward()
        optimizer.step()
    author.eval()
    torch.save(author.state_dict(), tmp_path / "mine.pt")
    chosen = read_config(tmp_path / "config.yml")
    with torch.no_grad():
        logits = author((data.test.images.float() / 255 - 0.5) / 0.5)
    by_hand = (logits.argmax(1) == data.test.labels).double().mean().item()
    result = run_pair(chosen, "ours:1,mine:0")
    assert result["status"] == "finished"
    assert result["receiver_accuracy"] == pytest.approx(by_hand, abs=0.021)
    assert by_hand > 0.2


def blocks(language: str) -> list[str]:
    """What docs/models.md has in code blocks of a language."""
    text = (ROOT / "docs/models.md").read_text()
    return [part.partition("```")[0] for part in text.split(f"```{language}\n")[1:]]


def test_the_walk_through_of_the_docs(tmp_path):
    (tmp_path / "net.py").write_text(blocks("python")[0])
    (tmp_path / "config.yml").write_text(blocks("yaml")[0])
    net = by_name(f"{tmp_path}/net.py:make", 1, 10, {"channels": 8})
    torch.save(net.state_dict(), tmp_path / "net.pt")
    rows = describe(net, (1, 8, 8)).cut_points
    text = (ROOT / "docs/models.md").read_text()
    assert "\n".join(cut_table(rows)) in text
    with pytest.raises(CutError) as caught:
        describe_cut(net, "blocks.1.conv", (1, 8, 8))
    assert " ".join(str(caught.value).split()) in " ".join(text.split())
    small = {
        "data.train_images": 100,
        "data.test_images": 50,
        "pretraining.epochs": 1,
        "training.epochs": 1,
        "zoo": str(tmp_path / "zoo"),
    }
    chosen = read_config(tmp_path / "config.yml", small)
    assert run_pair(chosen, "ours:1,mine:1")["status"] == "finished"


def test_files_of_every_format_are_read_and_what_they_wrap_is_said(mine, tmp_path, digits):
    torch.manual_seed(1)
    chosen = config(tmp_path, python(f"{mine}:make"))
    state = sources.build(chosen.networks[0], digits).network.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "b.ckpt")
    prefixed = {f"module.{name}": value for name, value in state.items()}
    torch.save({"model": prefixed, "optimizer": {"a": 1}}, tmp_path / "c.pt")
    for name, keys in {
        "a.safetensors": {},
        "b.ckpt": {},
        "c.pt": {"weights_key": "model", "weights_prefix": "module."},
    }.items():
        network = python(f"{mine}:make", **keys) | {"weights": name}
        of = config(tmp_path, network).networks[0]
        found = load_from_file(of, digits).network.state_dict()
        assert all(torch.equal(found[k], state[k]) for k in state), name
    c = python(f"{mine}:make", weights="c.pt")
    assert "weights_key: says under which of model, optimizer it is" in refused(tmp_path, c)
    assert "has no 'modle': did you mean 'model'?" in refused(
        tmp_path, c | {"weights_key": "modle"}
    )
    assert "weights_prefix: module." in refused(tmp_path, c | {"weights_key": "model"})


def test_a_state_dict_of_another_network_is_refused_with_the_differences(mine, tmp_path, digits):
    chosen = config(tmp_path, python(f"{mine}:make"))
    state = dict(sources.build(chosen.networks[0], digits).network.state_dict())
    del state["head.bias"]
    state["extra"] = torch.zeros(1)
    state["stem.weight"] = torch.zeros(5, 1, 3, 3)
    torch.save(state, tmp_path / "w.pt")
    message = refused(tmp_path, python(f"{mine}:make", weights="w.pt"))
    for part in (
        "lacks head.bias",
        "unknown extra",
        "stem.weight is [5, 1, 3, 3], not [4, 1, 3, 3]",
    ):
        assert part in message
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": Trap(sprung)}, tmp_path / "w.pt")
    assert "w.pt: holds code or a whole module (getattr), which is not run" in refused(
        tmp_path, python(f"{mine}:make", weights="w.pt")
    )
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("{file}:mak", "has no function 'mak': did you mean 'make'?"),
        ("{folder}/other.py:make", "No such file"),
        ("no_such_package.at_all:make", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("{file}:fails", "RuntimeError: no such luck"),
        ("{file}:exits", "could not be made: SystemExit: 2"),
        (
            "{file}:counts",
            "changes its own mean, var in eval mode too",
        ),
        ("{file}:nothing", "returned a dict, not a torch.nn.Module"),
        ("{file}:pair", "returns a tuple, where logits [B, K] are wanted"),
        ("{file}:noisy_inside", "differ from blocks.2 (DropsAlways) on"),
        ("{file}:noisy", "differ from head (Linear) on"),
    ],
)
def test_a_factory_that_is_of_no_use_says_why(factory, message, mine, tmp_path):
    path = factory.format(file=mine, folder=tmp_path)
    assert message in refused(tmp_path, python(path))


def test_a_file_that_does_not_import_is_named_with_the_line(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import torch\nraise ValueError('not today')\n")
    message = refused(tmp_path, python("./broken.py:make"))
    assert "can't be imported: ValueError: not today" in message
    assert "broken.py:2" in message
    (tmp_path / "exits.py").write_text("raise SystemExit(0)\n")
    assert "SystemExit" in refused(tmp_path, python("./exits.py:make"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_package_that_exits.py").write_text("raise SystemExit(0)\n")
    assert "SystemExit" in refused(tmp_path, python("a_package_that_exits:make"))


def test_a_cut_point_that_does_not_exist_has_the_nearest_name(mine, tmp_path):
    assert "did you mean 'blocks.0'" in refused(
        tmp_path, python(f"{mine}:make", layers=["blocks.00"])
    )
    message = refused(tmp_path, python(f"{mine}:make", layers=["blocks.1.conv"]))
    assert "'blocks.0' is used again after it" in message


@pytest.mark.parametrize("factory", ["make", "branches"])
def test_all_wrong_layers_are_said_at_once(factory, mine, tmp_path):
    layers = ["stem", "blocks.00", "blocks.1.conv", "hed"]
    with pytest.raises(InputError) as caught:
        prepare(config(tmp_path, python(f"{mine}:{factory}", layers=layers)))
    assert len(caught.value.problems) == 3
    for name, problem in zip(layers[1:], caught.value.problems, strict=True):
        assert problem.startswith(f"networks[0]: python:{factory}: ")
        assert repr(name) in problem


def test_normalisation_with_more_channels_than_the_network_takes_is_named(mine, tmp_path):
    two = {"mean": [0.5, 0.5], "std": [0.5, 0.5]}
    message = refused(tmp_path, python(f"{mine}:make", normalisation=two))
    assert "grey images are repeated to 2 channels, as many as normalisation has numbers" in message


def test_auto_is_one_layer_per_block_of_our_own_families_too(tmp_path):
    plain = {
        "name": "n",
        "family": "resnet1111",
        "width": 2,
        "skip": "none",
        "weights": "random_raw",
    }
    own, auto = (
        prepare(config(tmp_path, {**plain, "layers": layers})).outlines["n"].layers
        for layers in (None, "auto")
    )
    assert len(own) == 5
    assert len(auto) == 9, "without skips every convolution is a block"
    assert (
        run_pair(config(tmp_path, {**plain, "layers": "auto"}), "n:8,n:8")["status"] == "finished"
    )


@pytest.mark.parametrize(
    ("keys", "where", "message"),
    [
        ({"source": "torchvision"}, "model", "is missing"),
        ({"source": "python"}, "factory", "is missing"),
        ({"source": "elsewhere"}, "source", "wants 'family', 'torchvision'"),
        ({"source": "torchvision", "model": "resnet18", "width": 3}, "width", "unknown key"),
        (
            {"source": "torchvision", "model": "resnet18", "family": "resnet18"},
            "family",
            "has none",
        ),
        ({"source": "python", "factory": "make"}, "factory", "wants package.module:function"),
        (
            {"family": "resnet1111", "image_size": 8},
            "image_size",
            "only for networks from elsewhere",
        ),
        ({"family": "resnet1111", "weights": "DEFAULT"}, "weights", "or the path of a file"),
        ({"source": "torchvision", "model": "resnet18", "weights": "factory"}, "weights", "python"),
        ({"family": "resnet1111", "weights_key": "model"}, "weights_key", "only for weights from"),
        (
            {"source": "torchvision", "model": "x", "normalisation": {"mean": [0.5], "std": [0]}},
            "normalisation.std[0]",
            "wants a number of at least 1e-06",
        ),
    ],
)
def test_keys_that_do_not_go_together(keys, where, message, tmp_path):
    with pytest.raises(InputError) as caught:
        config(tmp_path, {"name": "n", **keys})
    assert any(f"networks[0].{where}: " in p and message in p for p in caught.value.problems)


def test_a_configuration_reads_back_and_older_ones_stay_what_they_were(mine, tmp_path):
    network = python(f"{mine}:make", normalisation={"mean": [0.5], "std": [0.5]}, layers="auto")
    chosen = config(tmp_path, {"name": "o", "family": "resnet1111", "width": 2}, network)
    (tmp_path / "again.yml").write_text(to_yaml(chosen))
    assert read_config(tmp_path / "again.yml") == chosen
    old, new = (of.model_dump() for of in chosen.networks)
    assert list(old) == ["name", "family", "seed", "weights", "layers", "blocks", "width"]
    assert "family" not in new


# Heads


def test_a_head_for_other_classes_can_send_and_not_receive(mine, tmp_path):
    many = {"name": "many", **python(f"{mine}:make", arguments={"classes": 17})} | {"name": "many"}
    ours = {"name": "ours", "family": "resnet1111", "width": 2, "weights": "random_raw"}
    chosen = config(tmp_path, many, ours)
    result = run_pair(chosen, "many:1,ours:2")
    assert result["sender_accuracy"] is None
    assert result["status"] == "finished"
    message = refused(tmp_path, many)
    assert "pairs[0].receiver: 'many' has a head for 17 classes, and the data has 10" in message
    with pytest.raises(InputError, match="--pair ours:1,many:1: 'many' has a head for 17 classes"):
        run_pair(chosen, "ours:1,many:1")
    teaching = {"soft_task": {"weight": 1.0, "teacher": "sender"}}
    with pytest.raises(
        InputError, match="has a head for other classes than the data's, so it can't"
    ):
        prepare(config(tmp_path, many, ours, loss=teaching))


@pytest.mark.parametrize("classes", [5, 17])
def test_a_head_for_other_classes_can_answer_for_no_cell_and_no_assembly(classes, mine, tmp_path):
    many = python(f"{mine}:make", arguments={"classes": classes})
    said = f"'n' has a head for {classes} classes, and the data has 10"
    knocked = config(tmp_path, many, pairs=[], knock_out=[{"network": "n"}])
    with pytest.raises(InputError, match=rf"^knock_out\[0\].network: {said}"):
        prepare(knocked)
    ours = {"name": "ours", "family": "resnet1111", "width": 2, "weights": "random_raw"}
    stitch = {"stitch": {"name": "conv1x1"}}
    parts = [{"network": "ours", "end": 1}, stitch, {"network": "n", "start": 1}]
    with pytest.raises(InputError, match=rf"^parts\[2\].network: {said}"):
        prepare(config(tmp_path, ours, many, pairs=[], parts=parts), cells=False)
    parts = [{"network": "n", "end": 1}, stitch, {"network": "ours", "start": 1}]
    prepare(config(tmp_path, ours, many, pairs=[], parts=parts), cells=False)


# The zoo, and other processes


def test_the_zoo_trains_a_network_of_a_file_and_runs_no_code_that_a_recipe_names(mine, tmp_path):
    made = python(f"{mine}:make", arguments={"channels": 6})
    chosen = config(tmp_path, made | {"weights": "trained", "seed": 3})
    prepared = prepare(chosen)
    (recipe,) = prepared.recipes()
    assert recipe.folder.startswith("python-make-digits-seed3-")
    zoo = Zoo(tmp_path / "zoo")
    entry = zoo.ensure(recipe, lambda r, resume: train_network(r, prepared.data, threads=1))
    assert [listed.options for listed in zoo.entries()] == [{"channels": 6}]
    module = prepared.networks({"n": entry})["n"]
    with pytest.raises(InputError, match="code that a stored file names is not run"):
        load(entry.folder)
    again = load(entry.folder, into=sources.build(chosen.networks[0], prepared.data))
    assert fingerprint(again) == fingerprint(module)
    found = find_networks(chosen, prepared.data, {}, Permissions(tmp_path))
    assert found.modules == {}
    assert "which is run only with --run-code" in found.notes[0]
    permitted = Permissions(tmp_path, run_code=True)
    assert set(find_networks(chosen, prepared.data, {}, permitted).modules) == {"n"}
    mine.write_text(MINE + "\n# another version\n")
    assert prepare(chosen).recipes()[0].hash != recipe.hash


def test_a_network_of_a_file_travels_to_a_process_that_lacks_the_file(mine, tmp_path):
    chosen = config(tmp_path, python(f"{mine}:make"), resources={"cpu": 1})
    prepared = prepare(chosen)
    module = provide_networks(prepared)["n"]
    for loaded in sources.python.loaded_files():
        ray.cloudpickle.register_pickle_by_value(loaded)
    recipe = make_recipe(chosen.networks[0], chosen, prepared.data)
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        expected = module(x)
    (tmp_path / "sent").write_bytes(ray.cloudpickle.dumps((module, recipe, x, expected)))
    mine.unlink()
    code = (
        "import sys, pickle, torch\n"
        "module, recipe, x, expected = pickle.load(open(sys.argv[1], 'rb'))\n"
        "with torch.no_grad(): assert torch.equal(module(x), expected)\n"
        "assert type(recipe.architecture().network).__name__ == 'Mine'\n"
        "from stitch_sweep.networks.frozen import FrozenNetwork\n"
        "assert FrozenNetwork(module).layer_names == ['relu', 'blocks.0', 'blocks.1']\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sent")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# What torch.fx can't trace


def test_a_network_that_cannot_be_traced_is_cut_with_hooks(mine, tmp_path):
    chosen = config(tmp_path, python(f"{mine}:branches"))
    prepared = prepare(chosen)
    module = provide_networks(prepared)["n"]
    frozen = FrozenNetwork(module)
    assert frozen.layer_names == ["stem", "blocks.0", "blocks.1"]
    x = normalise(prepared.data.test.images[:5], prepared.data.mean, prepared.data.std)
    with torch.no_grad():
        expected = module(x)
        for layer in (-1, 0, 1, 2):
            at_cut = frozen.prefix(layer)(x)
            kept = at_cut.clone()
            assert torch.equal(frozen.suffix(layer)(at_cut), expected)
            assert torch.equal(at_cut, kept)
        assert torch.equal(frozen.part(0, 2)(frozen.prefix(0)(x)), frozen.prefix(2)(x))
    stitched = frozen.prefix(1)(x).requires_grad_()
    frozen.suffix(1)(stitched).sum().backward()
    assert stitched.grad.abs().sum() > 0
    assert evaluate(module, make_loaders(prepared.data, 32, seed=0)["test"]).predictions.shape == (
        50,
    )
    frozen.verify()
    message = refused(tmp_path, python(f"{mine}:branches", layers=["blocks.0.conv"]))
    assert "no cut behind 'blocks.0.conv': other tensors cross there" in message
    assert "torch.fx can't trace Branches" in message
    assert "x.sum() > 1e9" in message


def test_cuts_with_hooks_are_tried_on_the_datas_own_images(mine, tmp_path):
    message = refused(tmp_path, python(f"{mine}:remembers", layers=["stem"]))
    assert "python:remembers: no cut behind 'stem': other tensors cross there" in message
    assert "for the data's images, though not for noise" in message


@pytest.mark.long
def test_a_sweep_trains_and_stitches_a_network_of_a_file_and_analyze_runs_it_only_if_asked(
    mine, tmp_path
):
    trained = python(f"{mine}:make", layers=["blocks.0"]) | {"weights": "trained"}
    branching = python(f"{mine}:branches", layers=["blocks.1"]) | {"name": "b"}
    config(tmp_path, trained, branching)
    status, output = run("sweep", tmp_path / "config.yml")
    assert status == 0, output
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert results[["sender_kind", "receiver_kind"]].values.tolist() == [["trained", "factory"]]
    assert results["status"].tolist() == ["finished"]
    # A stranger's folder may name any code.
    mine.write_text(MINE + f"\nopen({str(tmp_path / 'sprung')!r}, 'w').close()\n")
    status, output = run("analyze", tmp_path)
    assert status == 0, output
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "measured/networks.parquet").exists()
    mine.write_text(MINE)
    status, output = run("analyze", tmp_path, "--run-code")
    assert status == 0, output
    table = pd.read_parquet(tmp_path / "measured/networks.parquet").set_index("network")
    assert table.loc["n", "family"] == "python:make"
    assert table.loc["b", "test_accuracy"] == results["receiver_accuracy"].item()
