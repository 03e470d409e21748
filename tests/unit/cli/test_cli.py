"""Wrong input ends with status 2 and a message with its place; nothing is written."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from stitch_sweep.networks.families.building import build
from tests.support.command_line import everything

BASE: dict[str, Any] = {
    "data": {"name": "digits", "image_size": 16, "train_images": 200, "test_images": 100},
    "networks": [
        {"name": "a", "family": "resnet1111", "width": 4},
        {"name": "b", "family": "resnet1111", "width": 4, "seed": 1},
    ],
    "pairs": [{"sender": "a", "receiver": "b"}],
}


def write(folder: Path, **changes: Any) -> Path:
    """BASE with values replaced; dotted paths are written with `__`."""
    tree = yaml.safe_load(yaml.safe_dump(BASE))
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = tree
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        node[last] = value
    file = folder / "config.yml"
    file.write_text(yaml.safe_dump(tree))
    return file


COMMANDS = [
    ["sweep"],
    ["sweep", "--dry-run"],
    ["sweep", "--resume"],
    ["stitch", "--pair", "a:1,b:1"],
    ["zoo", "train"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
class TestEveryCommandThatReadsAConfiguration:
    def test_refuses_a_file_that_is_not_there(self, command, refused):
        assert refused(*command, "nope.yml") == ["nope.yml: there is no such file"]

    def test_names_every_problem_with_its_place(self, command, refused, tmp_path):
        file = write(tmp_path, seed=-1, training__epoch=3, pairs__0__sender_layers=["x"])
        assert sorted(refused(*command, file)) == [
            f"{file}: pairs[0].sender_layers: expected 'all' or a list of layer indices, "
            "-1 (the image) or above, got 'x'",
            f"{file}: seed: expected a number of at least 0, got -1",
            f"{file}: training.epoch: unknown key: did you mean 'epochs'?",
        ]

    @pytest.mark.parametrize("override", ["seed", "=1", "a..b=1", ".a=1"])
    def test_refuses_a_malformed_override(self, command, override, refused, tmp_path):
        file = write(tmp_path)
        (error,) = refused(*command, file, "--set", override)
        assert error == f"--set {override}: write it as a.b=value"

    def test_names_every_override_whose_value_is_wrong(self, command, refused, tmp_path):
        overrides = ("--set", "seed=010", "--set", "repeats", "--set", "training.epochs=1:30")
        errors = refused(*command, write(tmp_path), *overrides)
        places = ["--set seed: '010'", "--set repeats: ", "--set training.epochs: '1:30'"]
        assert [e.startswith(place) for e, place in zip(errors, places, strict=True)] == [True] * 3

    def test_refuses_more_than_the_machine_has(self, command, refused, tmp_path):
        cpus = len(os.sched_getaffinity(0))
        (error,) = refused(*command, write(tmp_path, resources__cpu=cpus + 1))
        assert error == f"resources.cpu is {cpus + 1}, but this machine has {cpus} CPUs"

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
    def test_refuses_a_gpu_where_there_is_none(self, command, refused, tmp_path):
        (error,) = refused(*command, write(tmp_path, resources__gpu=0.5))
        assert error.startswith("resources.gpu is 0.5, but this machine has no GPU")

    def test_refuses_a_data_path_without_data(self, command, refused, tmp_path):
        for name in ("cifar10", "image_folder", "parquet"):
            file = write(tmp_path, data={"name": name, "path": "nowhere"})
            (error,) = refused(*command, file)
            assert error.lower().startswith(f"data set {name}: ")
            assert "nowhere" in error


def test_problems_of_machine_sampler_and_folder_come_together(refused, tmp_path):
    search = {"space": {"training.epochs": {"type": "int", "low": 1, "high": 2}}, "sampler": "tp"}
    file = write(tmp_path, search=search, resources__cpu=1000)
    errors = refused("sweep", file, "--folder", file)
    assert [error.split()[0] for error in errors] == [
        "search.sampler.name:",
        f"{file}:",
        "resources.cpu",
    ]


class TestLayers:
    def test_out_of_range_are_refused_with_the_range(self, refused, tmp_path):
        pairs = [
            {"sender": "a", "receiver": "b", "sender_layers": [0, 9], "receiver_layers": [7]},
            {"sender": "b", "receiver": "a", "receiver_layers": [5]},
        ]
        assert refused("sweep", write(tmp_path, pairs=pairs)) == [
            "pairs[0].sender_layers: a has layers -1 (the image) to 4, not 9",
            "pairs[0].receiver_layers: b has layers -1 (the image) to 4, not 7",
            "pairs[1].receiver_layers: a has layers -1 (the image) to 4, not 5",
        ]

    @pytest.mark.parametrize(
        ("pair", "message"),
        [
            ("a:5,b:0", "a has layers -1 (the image) to 4, not 5"),
            ("a:0,b:-2", "b has layers -1 (the image) to 4, not -2"),
            ("a:0", "write it as sender:layer,receiver:layer, like a:2,b:3"),
            ("a:x,b:0", "write it as sender:layer,receiver:layer, like a:2,b:3"),
            ("a:--1,b:0", "write it as sender:layer,receiver:layer, like a:2,b:3"),
            ("a:0,b:0,a:0", "write it as sender:layer,receiver:layer, like a:2,b:3"),
            ("aa:0,b:0", "no network is named 'aa': did you mean 'a'?"),
        ],
    )
    def test_of_a_single_pair(self, pair, message, refused, tmp_path):
        assert refused("stitch", write(tmp_path), "--pair", pair) == [f"--pair {pair}: {message}"]

    def test_that_the_stitch_can_t_join(self, refused, tmp_path):
        file = write(tmp_path, stitch__name="identity")
        (error,) = refused("stitch", file, "--pair", "a:1,b:2", "--set", "pairs[0].sender_layers=[1]",
                           "--set", "pairs[0].receiver_layers=[1]")  # fmt: skip
        assert error.startswith("--pair a:1,b:2: ")
        errors = refused("sweep", file)
        assert errors[0].startswith("a:0 -> b:2: ")
        # Layers 0 and 1 are alike, and every layer is like itself: 18 of 25 cells can't be joined.
        assert errors[10:] == ["... and 8 more cells"]

    def test_of_a_crossed_stitch(self, refused, tmp_path):
        file = write(
            tmp_path,
            pairs__0__sender_layers=[1],
            pairs__0__receiver_layers=[2],
            search={"cross": {"stitch.name": ["paper", "identity"]}},
        )
        (error,) = refused("sweep", file)
        assert error.startswith("a:1 -> b:2: ")
        assert "identity" in error


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


class TestWeights:
    @pytest.fixture
    def weights(self, tmp_path) -> dict[str, torch.Tensor]:
        return {
            name: tensor.clone()
            for name, tensor in build(
                "resnet", 1, 10, {"blocks": [1, 1, 1, 1], "width": 4}
            ).state_dict().items()
        }  # fmt: skip

    def errors(self, refused, tmp_path, name: str, command: str = "--dry-run") -> list[str]:
        return refused("sweep", write(tmp_path, networks__0__weights=name), command)

    def test_missing(self, refused, tmp_path):
        (error,) = self.errors(refused, tmp_path, "nope.pt")
        assert error == f"networks[0]: {tmp_path / 'nope.pt'}: there is no such weights file"

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
    @pytest.mark.parametrize("content", [b"", b"just words", b"\x08" + bytes(7) + b"{", bytes(100)])
    def test_no_weights_file(self, name, content, refused, tmp_path):
        (tmp_path / name).write_bytes(content)
        (error,) = self.errors(refused, tmp_path, name)
        assert error.startswith(f"networks[0]: {tmp_path / name}: ")

    def test_truncated(self, refused, tmp_path, weights):
        for name, write_to in (("w.safetensors", save_file), ("w.pt", torch.save)):
            file = tmp_path / name
            write_to(weights, file)
            file.write_bytes(file.read_bytes()[:-100])
            (error,) = self.errors(refused, tmp_path, name)
            assert error.startswith(f"networks[0]: {file}: ")

    def test_a_pickle_with_code_in_it_is_not_run(self, refused, tmp_path):
        for write_to in (torch.save, lambda thing, file: file.write_bytes(pickle.dumps(thing))):
            write_to(Malicious(), tmp_path / "w.pt")
            (error,) = self.errors(refused, tmp_path, "w.pt")
            assert error.startswith(
                f"networks[0]: {tmp_path / 'w.pt'}: contains code or a whole module"
            )
            assert not (tmp_path / "ran").exists()

    def test_of_other_shapes_or_names(self, refused, tmp_path, weights):
        first, second, *_ = weights
        weights[first] = torch.zeros(3)
        weights["extra"] = weights.pop(second)
        save_file(weights, tmp_path / "w.safetensors")
        (error,) = self.errors(refused, tmp_path, "w.safetensors")
        assert f"lacks {second}" in error
        assert "has an unknown extra" in error
        assert f"{first} is [3], not [4, 1, 3, 3]" in error

    def test_not_a_state_dict(self, refused, tmp_path):
        torch.save([torch.zeros(2)], tmp_path / "w.pt")
        (error,) = self.errors(refused, tmp_path, "w.pt")
        assert "contains no state dict" in error

    def test_that_fit_are_taken(self, run, tmp_path, weights):
        torch.save({"state_dict": weights}, tmp_path / "w.pt")
        file = write(tmp_path, networks__0__weights="w.pt", training__epochs=1)
        ended = run("sweep", file, "--dry-run", "--json")
        assert ended.status == 0, ended.err
        assert json.loads(ended.out)["networks_to_train"] == 1


class TestOtherArguments:
    @pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "nonsense"])
    def test_an_address_without_a_cluster(self, address, run, tmp_path):
        file = write(tmp_path)
        ended = run("sweep", file, "--address", address)
        assert ended.status == 2
        assert f"error: --address {address}: there is no Ray cluster (" in ended.err
        assert list(tmp_path.iterdir()) == [file]

    def test_status_of_a_folder_without_a_sweep(self, refused, tmp_path):
        (error,) = refused("status", tmp_path)
        assert error.startswith(f"{tmp_path}: contains no sweep")
        refused("status", tmp_path / "nope")

    def test_a_zoo_that_is_not_there(self, refused):
        (error,) = refused("zoo", "list", "nope")
        assert error.startswith(f"{Path('nope').absolute()}: there is no such zoo")

    def test_a_network_that_has_no_such_name(self, refused):
        (error,) = refused("describe", "resnt34")
        assert error.startswith("no network is named 'resnt34'")

    def test_a_place_to_save_that_is_a_folder(self, refused, tmp_path):
        (error,) = refused("stitch", write(tmp_path), "--pair", "a:1,b:1", "--save", tmp_path)
        assert error == f"--save {tmp_path}: is a folder; name a file"

    @pytest.mark.parametrize(
        "arguments",
        [
            ["swep", "x.yml"],
            ["sweep"],
            ["sweep", "x.yml", "--resum"],
            ["stitch", "x.yml"],
            ["describe", "resnet34", "--width", "0"],
            ["describe", "resnet34", "--width", "wide"],
            ["sweep", "x.yml", "--workers", "0"],
        ],
        ids=" ".join,
    )
    def test_a_command_line_that_is_wrong(self, arguments, run, tmp_path):
        ended = run(*arguments)
        assert ended.status == 2
        assert "Traceback" not in ended.err
        assert ended.out == ""
        assert everything(tmp_path) == {}

    def test_a_folder_that_can_t_be_written(self, run, tmp_path):
        (tmp_path / "file").touch()
        file = write(tmp_path, zoo="file/zoo")
        ended = run("zoo", "train", file)
        assert (ended.status, ended.out) == (1, "")
        assert "Traceback" not in ended.err


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(run, monkeypatch, tmp_path):
    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stitch_sweep.storage.status.read_status", interrupted)
    ended = run("status", tmp_path)
    assert ended.status == 130
    assert "Interrupted" in ended.err
    assert "Traceback" not in ended.err


def test_a_zoo_lists_networks_from_elsewhere_beside_our_own(run, tmp_path):
    elsewhere = {"source": "python", "factory": "net.py:make", "arguments": {"channels": 6}}
    for name, what in (("a", {"options": {"width": 4}}), ("b", {"network": elsewhere})):
        stored = {
            "recipe": {"weights": "trained", **what},
            "accuracy": dict.fromkeys(("train", "validation", "test"), 0.5),
            "seconds": 1.0,
            "versions": {},
        }
        (tmp_path / "zoo" / name).mkdir(parents=True)
        (tmp_path / "zoo" / name / "recipe.json").write_text(json.dumps(stored))
    ended = run("zoo", "list")
    assert ended.status == 0
    assert "width=4" in ended.out
    assert "channels=6" in ended.out
