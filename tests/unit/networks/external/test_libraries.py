"""Networks of torchvision and timm by name."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
import torchvision

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.networks import construction
from stitch_sweep.networks.external import timm
from stitch_sweep.networks.frozen import FrozenNetwork
from stitch_sweep.networks.recipes import make_recipe
from stitch_sweep.storage.digests import fingerprint
from tests.support.networks_external import Trap, config, refused


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
    chosen_network = chosen.networks[0]
    torch.manual_seed(0)
    module = construction.build(chosen_network, digits).eval()
    frozen = FrozenNetwork(module)
    assert frozen.classifies
    assert len(frozen.layer_names) >= 5
    recipe = make_recipe(chosen_network, chosen, digits)
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
    module = construction.load(chosen, digits)
    assert all(torch.equal(v, state[k]) for k, v in module.network.state_dict().items())
    assert not module.classifies  # 1000 classes
    assert module.expected_image.resize.shape == (224, 16)
    assert module.expected_image.grey_to == 3
    # A black pixel becomes (0 - mean) / std of ImageNet, as in the training of the weights.
    black = -digits.mean / digits.std * torch.ones(1, 1, 16, 16)
    expected = -torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
    found = module.expected_image(black).mean((0, 2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    sprung = tmp_path / "sprung"
    file.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InputError, match=r"weights IMAGENET1K_V1: .*could not be made"):
        construction.load(chosen, digits)
    assert not sprung.exists()


def test_a_control_sees_what_its_network_sees(tmp_path):
    named = {"name": "n", "source": "torchvision", "model": "resnet18", "weights": "IMAGENET1K_V1"}
    controls = ["untrained_sender", "class_only"]
    networks = config(tmp_path, named, controls=controls).networks
    assert [network.name for network in networks] == ["n", "n-untrained", "n-class-only"]
    data = load_data(config(tmp_path, named).data)
    befores = [construction.make_blueprint(network, data)["preprocessing"] for network in networks]
    assert befores[0]["image_size"] == 224
    assert befores[1] == befores[2] == befores[0]
    given = config(tmp_path, named | {"weights": "random", "expects": "IMAGENET1K_V1"}).networks[0]
    assert construction.make_blueprint(given, data)["preprocessing"] == befores[0]


def test_names_that_a_library_lacks_are_refused_with_the_nearest(tmp_path):
    torchvision_network = {"name": "n", "source": "torchvision", "weights": "random_raw"}
    assert "did you mean 'resnet18'" in refused(
        tmp_path, {**torchvision_network, "model": "resnet_18"}
    )
    wrong = {**torchvision_network, "model": "resnet18", "weights": "IMAGENET_V1"}
    assert "did you mean 'IMAGENET1K_V1'" in refused(tmp_path, wrong)
    unknown = {**torchvision_network, "model": "resnet18", "arguments": {"num_clases": 3}}
    assert "num_clases" in refused(tmp_path, unknown)


def test_timm_is_optional(tmp_path, monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(timm, "import_module", missing)
    network = {"name": "n", "source": "timm", "model": "resnet18", "weights": "random_raw"}
    assert r"pip install 'stitch-sweep[timm]'" in refused(tmp_path, network)


def test_a_name_with_an_address_in_it_is_not_followed(tmp_path):
    pytest.importorskip("timm")
    network = {"name": "n", "source": "timm", "model": "hf-hub:a/b", "weights": "random_raw"}
    assert "timm has no model 'hf-hub:a/b'" in refused(tmp_path, network)
