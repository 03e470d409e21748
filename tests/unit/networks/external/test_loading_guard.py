"""A library must not load files, run code or connect while it makes a network."""

from __future__ import annotations

import json
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import datasets, models

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.networks.external import timm, torchvision
from stitch_sweep.networks.external.factories import call_factory
from stitch_sweep.networks.external.loading_guard import nothing_loaded, torch_weights_only
from stitch_sweep.networks.external.naming import build_by_name
from stitch_sweep.networks.zoo import load
from stitch_sweep.plan.samplers import _PLAIN, SAMPLER_CLASSES
from stitch_sweep.storage.checkpoints import pack
from tests.support.networks_external import Trap
from tests.support.networks_faulty import config, refused


def library(source: str, arguments: dict[str, Any], weights: str = "random_raw") -> dict[str, Any]:
    model = {"timm": "resnet10t", "torchvision": "resnet18"}[source]
    return {
        "name": "n",
        "source": source,
        "model": model,
        "weights": weights,
        "arguments": arguments,
        "image_size": 32,
    }


LOADING = [
    ("timm", {"checkpoint_path": "FILE"}, "checkpoint_path"),
    ("timm", {"pretrained": True}, "pretrained"),
    ("timm", {"pretrained_cfg": {"file": "FILE"}}, "pretrained_cfg.file"),
    ("timm", {"pretrained_cfg_overlay": {"url": "http://a/b"}}, "pretrained_cfg_overlay.url"),
    ("timm", {"pretrained_cfg_overlay": {}}, "pretrained_cfg_overlay"),
    ("timm", {"pretrained_strict": False}, "pretrained_strict"),
    ("timm", {"cache_dir": "FILE"}, "cache_dir"),
    ("timm", {"model_name": "local-dir:FILE"}, "model_name"),
    ("timm", {"scriptable": True}, "scriptable"),
    ("timm", {"block_args": {"weights_file": "w"}}, "block_args.weights_file"),
    ("timm", {"act_layer": "/tmp/x.pt"}, "act_layer"),
    ("timm", {"act_layer": ["relu", "hf-hub:a/b"]}, r"act_layer\[1\]"),
    ("torchvision", {"weights": "DEFAULT"}, "weights"),
    ("torchvision", {"weights_backbone": "DEFAULT"}, "weights_backbone"),
    ("torchvision", {"pretrained": True}, "pretrained"),
    ("torchvision", {"progress": True}, "progress"),
    ("torchvision", {"norm_layer": "./mine.pt"}, "norm_layer"),
]


def test_arguments_by_which_a_library_loads_are_refused(subtests, folder):
    for source, arguments, place in LOADING:
        with subtests.test(f"{source}: {arguments}"):
            if source == "timm":
                pytest.importorskip("timm")
            sprung = folder / "sprung"
            file = folder / "w.pt"
            file.write_bytes(pickle.dumps(Trap(sprung)))
            arguments = json.loads(json.dumps(arguments).replace("FILE", str(file)))
            module = timm if source == "timm" else torchvision
            network = library(source, arguments)
            with pytest.raises(InputError, match=rf"^arguments\.{place}: is "):
                module.build(network["model"], arguments)
            with pytest.raises(InputError, match=rf"^arguments\.{place}: is "):
                module.load(network["model"], "DEFAULT", arguments)
            with pytest.raises(InputError, match=rf"^arguments\.{place}: is "):
                build_by_name(f"{source}:{network['model']}", 1, 10, arguments)
            assert not sprung.exists()


def test_a_configuration_and_a_recipe_with_such_an_argument_run_nothing(folder):
    sprung = folder / "sprung"
    (folder / "w.pt").write_bytes(pickle.dumps(Trap(sprung)))
    arguments = {"checkpoint_path": str(folder / "w.pt")}
    pytest.importorskip("timm")
    message = refused(folder, library("timm", arguments))
    assert message.startswith("networks[0]: arguments.checkpoint_path: is not allowed")
    plan = {
        "source": "timm",
        "model": "resnet10t",
        "arguments": arguments,
        "image": [1, 8, 8],
        "preprocessing": None,
    }
    entry = folder / "zoo/entry"
    entry.mkdir(parents=True)
    recipe = {"network": plan, "seed": 0, "weights": "trained", "data": {"name": "digits"}}
    accuracy = {"train": 1.0, "validation": 1.0, "test": 1.0}
    content = {"recipe": recipe, "accuracy": accuracy, "seconds": 0.0, "versions": {}}
    (entry / "recipe.json").write_text(json.dumps(content))
    (entry / "weights.safetensors").write_bytes(pack({"model": {}}))
    with pytest.raises(InputError, match=r"arguments\.checkpoint_path: is not allowed"):
        load(entry)
    assert not sprung.exists()


def test_arguments_that_describe_a_network_are_taken():
    pytest.importorskip("timm")
    arguments = {"num_classes": 3, "in_chans": 1, "drop_path_rate": 0.1, "act_layer": "gelu"}
    assert timm.build("resnet10t", arguments).num_classes == 3
    made = torchvision.build("googlenet", {"aux_logits": False, "init_weights": False})
    assert made.aux1 is None


def test_a_number_of_channels_that_is_none_is_said(subtests):
    for value in ("three", 0, True, 1.5):
        with (
            subtests.test(str(value)),
            pytest.raises(
                InputError, match=r"arguments\.in_chans: must be a whole number above 0, got"
            ),
        ):
            timm.channels({"in_chans": value})


def _connect() -> None:
    socket.create_connection(("127.0.0.1", 9), timeout=1)


@pytest.mark.parametrize(
    ("load_something", "what"),
    [
        (lambda file: torch.load(file, weights_only=False), "a file"),
        (lambda file: torch.load(file, weights_only=True), "a file"),
        (lambda file: torch.jit.load(file), "a file"),
        (lambda file: torch.hub.load_state_dict_from_url(file.as_uri()), "a file"),
        (lambda file: torch.hub.download_url_to_file(file.as_uri(), str(file)), "a file"),
        (lambda file: pickle.loads(file.read_bytes()), "code in a file"),
        (lambda file: pickle.Unpickler(file.open("rb")).load(), "code in a file"),
        (lambda file: _connect(), "something from a network address"),
    ],
)
def test_a_library_that_loads_while_it_builds_is_stopped(
    subtests, load_something, what, tmp_path, monkeypatch
):
    for hides in (False, True):
        with subtests.test(f"hides: {hides}"):
            sprung = tmp_path / "sprung"
            file = tmp_path / "w.pt"
            file.write_bytes(pickle.dumps(Trap(sprung)))

            def builder(hides: bool = hides, file: Path = file, **_: Any) -> nn.Module:
                try:
                    load_something(file)
                except Exception:
                    if not hides:
                        raise
                return nn.Linear(1, 1)

            monkeypatch.setattr(models, "get_model_builder", lambda name: builder)
            with pytest.raises(
                InputError, match=f"torchvision's resnet18 would load {what} while it is"
            ):
                torchvision.build("resnet18", {})
            assert not sprung.exists()
            # Afterwards, and in a user's factory, everything loads as before.
            assert torch.load.__module__ == "torch.serialization"
            pickle.loads(pickle.dumps(Path("a")))
            assert isinstance(
                call_factory(lambda: pickle.loads(pickle.dumps(nn.ReLU())), {}, "mine"), nn.ReLU
            )


def test_another_thread_may_load_meanwhile(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    with ThreadPoolExecutor(1) as pool, nothing_loaded("a network"):
        assert pool.submit(torch.load, tmp_path / "w.pt").result(timeout=60)["a"] == 1


def test_forced_loading_of_weights_only_wins_over_the_opposite_variable(monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    import os

    with torch_weights_only("w"):
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
        assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_samplers_take_numbers_switches_and_names_but_nothing_to_load():
    import inspect

    taken = {
        name
        for cls in SAMPLER_CLASSES.values()
        for name, parameter in inspect.signature(cls).parameters.items()
        if _PLAIN.fullmatch(str(parameter.annotation))
    }
    words = ("path", "file", "url", "storage", "source", "dir", "trials_from", "load")
    assert not [name for name in taken if any(word in name for word in words)]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_file_of_cifar_that_is_not_the_original_is_not_unpickled(name, tmp_path):
    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    sprung = tmp_path / "sprung"
    files = [file for file, _ in dataset.train_list + dataset.test_list]
    (tmp_path / dataset.base_folder).mkdir()
    for file in [*files, dataset.meta["filename"]]:
        (tmp_path / dataset.base_folder / file).write_bytes(pickle.dumps(Trap(sprung)))
    content = {"data": {"name": name, "path": str(tmp_path)}}
    read = config(tmp_path, {"name": "n", "family": "resnet1111"}, **content)
    with pytest.raises(InputError, match="no usable data"):
        load_data(read.data)
    assert not sprung.exists()
