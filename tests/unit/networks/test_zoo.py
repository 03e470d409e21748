from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stitch_sweep.config.models import Config, DataConfig
from stitch_sweep.core.errors import DivergedError, InputError
from stitch_sweep.data.images import Data, Images
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.data.loading import make_loaders
from stitch_sweep.networks.evaluation import CHUNK, evaluate
from stitch_sweep.networks.families.building import build
from stitch_sweep.networks.zoo import (
    Progress,
    Recipe,
    Zoo,
    _fill_batchnorm_statistics,
    load,
    load_from_file,
    load_weights,
    make_recipe,
    train_network,
)
from stitch_sweep.storage.checkpoints import pack, unpack
from tests.support.digits import DIGITS
from tests.support.paths import ROOT

NETWORK = {"name": "n", "family": "resnet1111", "width": 2}


def config(network: dict | None = None, **sections: Any) -> Config:
    return Config.model_validate(
        {
            "data": {"name": "digits", "image_size": 16, **sections.pop("data", {})},
            "networks": [{**NETWORK, **(network or {})}],
            "pairs": [{"sender": "n", "receiver": "n"}],
            "pretraining": {"epochs": 3, "batch_size": 64, **sections.pop("pretraining", {})},
            **sections,
        }
    )


def recipe(data: Data, network: dict | None = None, /, **sections: Any) -> Recipe:
    chosen = config(network, **sections)
    return make_recipe(chosen.networks[0], chosen, data)


def train(of: Recipe, data: Data, **options: Any) -> list[Progress]:
    return list(train_network(of, data, threads=1, **options))


def weights(progress: Progress) -> dict[str, torch.Tensor]:
    assert progress.weights is not None
    return unpack(progress.weights)["model"]


# Recipes


def changed(data: Data, split: str, what: str) -> Data:
    images = getattr(data, split)
    tensors = {"images": images.images.clone(), "labels": images.labels.clone()}
    tensors[what].view(-1)[-1] = (tensors[what].view(-1)[-1] + 1) % 10
    return dataclasses.replace(data, **{split: Images(**tensors)})


def test_a_hash_changes_with_everything_that_determines_weights_and_with_nothing_else(digits):
    first = recipe(digits).hash
    same = [
        recipe(digits),
        recipe(digits, {"name": "n"}, seed=7, repeats=3),
        recipe(digits, {"layers": ["relu"]}),
        recipe(digits, training={"epochs": 9}),
        recipe(dataclasses.replace(digits, fingerprint="another path")),
        recipe(changed(digits, "test", "labels")),
        Recipe("another name", recipe(digits).content),
    ]
    assert {r.hash for r in same} == {first}
    different = [
        recipe(digits, {"seed": 1}),
        recipe(digits, {"width": 3}),
        recipe(digits, {"family": "resnet1112"}),
        recipe(digits, {"weights": "random"}),
        recipe(digits, {"weights": "random_raw"}),
        recipe(digits, pretraining={"epochs": 4}),
        recipe(digits, pretraining={"batch_size": 32}),
        recipe(digits, pretraining={"optimizer": {"name": "sgd", "lr": 0.2}}),
        recipe(digits, pretraining={"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.5}}),
        recipe(digits, pretraining={"schedule": {"name": "linear"}}),
        recipe(digits, data={"augment": "crop_flip"}),
        recipe(digits, resources={"cpu": 2}),
        recipe(changed(digits, "train", "images")),
        recipe(changed(digits, "train", "labels")),
        recipe(dataclasses.replace(digits, mean=digits.mean + 1e-6)),
        recipe(dataclasses.replace(digits, classes=(*digits.classes, "ten"))),
    ]
    assert len({first, *(r.hash for r in different)}) == len(different) + 1
    own = recipe(digits, {"pretraining": {"epochs": 4}})
    assert own.hash == recipe(digits, pretraining={"epochs": 4}).hash, "wherever it is said"


def test_an_untrained_network_does_not_depend_on_how_others_are_trained(digits):
    for kind in ("random", "random_raw"):
        assert (
            recipe(digits, {"weights": kind}).hash
            == recipe(digits, {"weights": kind}, pretraining={"epochs": 9}).hash
        )


# Controls


def test_random_raw_is_kaiming_fan_out_with_untouched_statistics(digits):
    of = recipe(digits, {"weights": "random_raw", "width": 16})
    (progress,) = train(of, digits)
    state = weights(progress)
    for name, tensor in state.items():
        if tensor.ndim == 4:
            out, _, k, _ = tensor.shape
            # The share of a sample variance that chance moves: sqrt(2 / n); five of these.
            tolerance = 5 * math.sqrt(2 / tensor.numel())
            assert tensor.var().item() == pytest.approx(2 / (out * k * k), rel=tolerance), name
        elif name.endswith("running_mean"):
            assert (tensor == 0).all()
        elif name.endswith("running_var"):
            assert (tensor == 1).all()
    assert progress.accuracy.keys() == {"train", "validation", "test"}


def test_random_has_the_same_weights_and_the_statistics_of_one_pass(digits):
    raw = weights(train(recipe(digits, {"weights": "random_raw"}), digits)[0])
    found = weights(train(recipe(digits, {"weights": "random"}), digits)[0])
    module = build("resnet", 1, 10, {"blocks": [1, 1, 1, 1], "width": 2})
    module.load_state_dict(raw)
    # Independently: BatchNorm's input in each chunk, its mean and unbiased variance.
    norms = {n: m for n, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)}
    seen: dict[str, list[tuple[int, torch.Tensor, torch.Tensor]]] = {name: [] for name in norms}
    for name, norm in norms.items():

        def hook(m, args, _, name=name):
            values = args[0].double().transpose(0, 1).flatten(1)
            seen[name].append((len(args[0]), values.mean(dim=1), values.var(dim=1)))

        norm.register_forward_hook(hook)
    module.train()
    x = (digits.train.images.float() / 255 - digits.mean[0]) / digits.std[0]
    with torch.no_grad():
        for chunk in x.split(CHUNK):
            module(chunk)
    assert len(x) % CHUNK  # so that the weights of the chunks differ
    for name, chunks in seen.items():
        for k, statistic in ((1, "running_mean"), (2, "running_var")):
            by_hand = sum(chunk[0] * chunk[k] for chunk in chunks) / len(x)
            torch.testing.assert_close(
                found[f"{name}.{statistic}"], by_hand.float(), rtol=1e-4, atol=1e-5
            )
        assert torch.equal(found[f"{name}.weight"], raw[f"{name}.weight"])
    assert torch.equal(found["layer3.0.conv1.weight"], raw["layer3.0.conv1.weight"])


def test_random_statistics_are_those_of_a_network_that_drops_nothing(digits):
    """The BatchNorms of a control see what they will see; in train mode, dropout would be in it."""

    def made(dropout: float) -> nn.Module:
        torch.manual_seed(0)
        drops = nn.Dropout(dropout)
        return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), drops, nn.BatchNorm1d(8))

    found = []
    for dropout in (0.0, 0.5):
        network = made(dropout)
        loader = make_loaders(digits, 64, seed=0)["train"]
        _fill_batchnorm_statistics(network, loader)
        found.append(network[3])
    assert torch.equal(found[0].running_mean, found[1].running_mean)
    assert torch.equal(found[0].running_var, found[1].running_var)
    assert found[0].running_var.min() > 0


# Training


def test_training_is_a_function_of_the_recipe(digits):
    runs = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        runs.append(train(recipe(digits), digits))
    assert runs[0][-1].weights == runs[1][-1].weights
    assert [p.epoch for p in runs[0]] == [1, 2, 3]
    assert [p.weights is None for p in runs[0]] == [True, True, False]
    other = train(recipe(digits, {"seed": 1}), digits)
    assert other[-1].weights != runs[0][-1].weights


def test_the_stored_accuracy_is_that_of_the_stored_network(digits, tmp_path):
    of = recipe(digits)
    zoo = Zoo(tmp_path)
    entry = zoo.ensure(of, lambda r, resume: train_network(r, digits, threads=1, resume=resume))
    network = load(entry.folder)
    assert not any(part.training for part in network.modules())
    for split, accuracy in entry.accuracy.items():
        loader = Loader(getattr(digits, split), digits.mean, digits.std, batch_size=9, seed=0)
        assert evaluate(network, loader).accuracy == accuracy
    assert entry.recipe == of.content
    assert [e.folder for e in zoo.entries()] == [entry.folder]
    assert entry.folder.name.endswith(of.hash)
    assert sorted(p.name for p in entry.folder.iterdir()) == ["recipe.json", "weights.safetensors"]


WORK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.unit.networks import test_zoo
test_zoo.work(Path(sys.argv[2]))
"""


def work(folder: Path) -> None:
    """In another process: ask the zoo in `folder` for a network, and say every epoch so."""
    data = load_data(DataConfig.model_validate(DIGITS))
    of = recipe(data)

    def start(of: Recipe, resume: bytes | None) -> Iterator[Progress]:
        print("training", "anew" if resume is None else "on", flush=True)
        return train_network(of, data, threads=1, resume=resume, checkpoint_seconds=0)

    print("ready", flush=True)
    sys.stdin.readline()
    entry = Zoo(folder).ensure(of, start, lambda _, p: print("epoch", p.epoch, flush=True))
    print("folder", entry.folder, flush=True)


def worker(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(ROOT), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(digits, tmp_path):
    killed = worker(tmp_path)
    killed.stdin.write("\n")
    killed.stdin.flush()
    while killed.stdout.readline() != "epoch 2\n":
        assert killed.poll() is None
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    zoo, of = Zoo(tmp_path), recipe(digits)
    assert zoo.find(of) is None
    assert zoo.entries() == []
    out, _ = worker(tmp_path).communicate("\n")
    assert out.splitlines()[1:-1] == ["training on", "epoch 3"]
    found = load_weights(zoo.find(of).folder / "weights.safetensors")
    whole = weights(train(of, digits)[-1])
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[k], whole[k]) for k in whole)


def test_two_processes_that_ask_at_once_train_once(tmp_path):
    both = [worker(tmp_path) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [process.communicate()[0].splitlines() for process in both]
    assert sorted(line for out in lines for line in out if line.startswith("training")) == [
        "training anew"
    ]
    assert lines[0][-1] == lines[1][-1]
    assert lines[0][-1].startswith("folder ")


def test_a_network_that_is_there_is_not_trained(digits, tmp_path):
    zoo, of = Zoo(tmp_path), recipe(digits, {"weights": "random_raw"})
    calls = []

    def start(of: Recipe, resume: bytes | None) -> Iterator[Progress]:
        calls.append(resume)
        return train_network(of, digits, threads=1)

    entries = [zoo.ensure(of, start) for _ in range(3)]
    assert calls == [None]
    assert entries[0] == entries[1] == entries[2]


@pytest.mark.parametrize(
    "pretraining",
    [
        {"optimizer": {"name": "sgd", "lr": 1e30}},
        # One step in all: the only loss is finite, the weights after it are not.
        {"optimizer": {"name": "sgd", "lr": 1e38, "momentum": 0.9}, "epochs": 1, "batch_size": 300},
    ],
)
def test_a_training_that_diverges_is_named_and_stores_nothing(digits, tmp_path, pretraining):
    if pretraining.get("epochs") == 1:
        pretraining["schedule"] = {"name": "constant", "warmup": 0}
        pretraining["optimizer"]["weight_decay"] = 1e3  # overflows whatever the gradient is
    zoo, of = Zoo(tmp_path), recipe(digits, pretraining=pretraining)
    with pytest.raises(DivergedError, match="'n': its training diverged in epoch 1"):
        zoo.ensure(of, lambda r, resume: train_network(r, digits, threads=1))
    assert zoo.find(of) is None
    assert not list(tmp_path.glob("*/*"))


# Loading


@pytest.fixture(scope="module")
def stored(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    zoo = Zoo(tmp_path_factory.mktemp("zoo"))
    of = recipe(digits, {"weights": "random_raw"})
    return zoo.ensure(of, lambda r, resume: train_network(r, digits, threads=1)).folder


def network_config(path: Path, **changes: Any):
    return config({"weights": str(path), **changes}).networks[0]


def test_weights_of_every_format_are_read(stored, digits, tmp_path):
    expected = load(stored).state_dict()
    save_file(expected, tmp_path / "plain.safetensors")
    torch.save(expected, tmp_path / "state.pt")
    torch.save({"state_dict": expected, "epoch": 3}, tmp_path / "lightning.ckpt")
    paths = [stored / "weights.safetensors", *sorted(tmp_path.iterdir())]
    assert len(paths) == 4
    for path in paths:
        module = load_from_file(network_config(path), digits)
        assert not module.training
        found = module.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[k], expected[k]) for k in expected)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_code_in_a_weights_file_is_refused_and_not_run(tmp_path):
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": Trap(sprung)}, tmp_path / "torch.pt")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(Trap(sprung)))
    (tmp_path / "named.safetensors").write_bytes(pickle.dumps(Trap(sprung)))
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=path.name) as caught:
            load_weights(path)
        assert "can still be loaded" not in str(caught.value), "no way to run it is recommended"
        if path.suffix != ".safetensors":
            assert "holds code or a whole module" in str(caught.value)
            assert "store its state_dict() alone" in str(caught.value)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x00\xff" * 500, b"{}"])
def test_what_is_no_weights_file_is_refused_with_its_path(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}: ") as caught:
        load_weights(path)
    assert ("is empty" in str(caught.value)) == (not content)
    assert "holds code" not in str(caught.value)
    with pytest.raises(InputError, match="no such weights file"):
        load_weights(tmp_path / "missing.pt")
    with pytest.raises(InputError, match="no such weights file"):
        load_weights(tmp_path)


@pytest.mark.parametrize("state", [[1, 2], {"a": 3}, torch.ones(2), {"state_dict": [1]}])
def test_a_pytorch_file_without_a_state_dict_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        load_weights(tmp_path / "w.pt")


def test_weights_of_another_network_are_refused_with_the_differences(stored, digits, tmp_path):
    state = dict(load(stored).state_dict())
    del state["fc.bias"]
    state["extra"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(2, 3, 3, 3)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError) as refused:
        load_from_file(network_config(tmp_path / "w.pt"), digits)
    message = str(refused.value)
    for part in (
        "network 'n'",
        "w.pt",
        "lacks fc.bias",
        "has an unknown extra",
        "conv1.weight is [2, 3, 3, 3], not [2, 1, 3, 3]",
    ):
        assert part in message
    with pytest.raises(InputError, match=r"and \d+ more"):
        load_from_file(network_config(stored / "weights.safetensors", width=4), digits)


@pytest.mark.parametrize(("name", "value"), [("fc.bias", math.inf), ("bn1.running_var", math.nan)])
def test_weights_that_are_no_numbers_are_refused(stored, digits, tmp_path, name, value):
    state = dict(load(stored).state_dict())
    state[name] = state[name].clone()
    state[name][0] = value
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=f"doesn't fit: {name} holds NaN or infinite values$"):
        load_from_file(network_config(tmp_path / "w.pt"), digits)


def test_a_file_of_ours_that_is_no_network_or_damaged_is_refused(stored, tmp_path):
    (tmp_path / "stitch.safetensors").write_bytes(pack({"stitch": {}}))
    with pytest.raises(InputError, match="holds no network"):
        load_weights(tmp_path / "stitch.safetensors")
    data = (stored / "weights.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="bytes changed"):
        load_weights(tmp_path / "w.safetensors")


def broken(folder: Path, tmp_path: Path, name: str, data: bytes | None) -> Path:
    copied = tmp_path / folder.name
    copied.mkdir()
    for path in folder.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    (copied / name).unlink()
    if data is not None:
        (copied / name).write_bytes(data)
    return copied


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors"])
@pytest.mark.parametrize("data", [None, b"", b"{}", b"garbage"])
def test_a_damaged_folder_is_an_input_error(stored, tmp_path, name, data):
    folder = broken(stored, tmp_path, name, data)
    with pytest.raises(InputError, match=str(folder)):
        load(folder)


def test_a_network_loads_in_one_line_in_a_fresh_process(stored):
    command = (
        f"from stitch_sweep.networks.zoo import load; print(load({str(stored)!r}).fc.bias.tolist())"
    )
    out = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert json.loads(out.stdout) == load(stored).fc.bias.tolist()
    with pytest.raises(InputError, match="no finished network"):
        load(stored.parent)


def test_a_loaded_network_is_apart_from_the_stored_one(stored):
    first = load(stored)
    expected = copy.deepcopy(first.state_dict())
    with torch.no_grad():
        first.fc.weight.zero_()
    assert torch.equal(load(stored).fc.weight, expected["fc.weight"])
