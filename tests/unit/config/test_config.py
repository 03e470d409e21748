"""Validation of every key, with all problems in one message; written configurations read back equal."""

import importlib
import itertools
import math
import pkgutil
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

import stitch_sweep.config
from stitch_sweep.config.components import Component
from stitch_sweep.config.loss import LossConfig
from stitch_sweep.config.reading import parse_value, read_config, to_yaml
from stitch_sweep.config.root import Config
from stitch_sweep.config.search import Distribution
from stitch_sweep.config.trial import label
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import LOSSES, STITCHES
from stitch_sweep.plan.samplers import check_sampler
from stitch_sweep.plan.space import combinations
from stitch_sweep.storage.study import Study
from tests.support.paths import ROOT

SHIPPED = sorted((ROOT / "experiments").rglob("config.yml"))
QUICKSTART = ROOT / "experiments/quickstart/digits/config.yml"
SPACES = sorted((ROOT / "search_spaces").glob("*.yml"))

BASE: dict[str, Any] = {
    "data": {"name": "digits", "image_size": 16},
    "networks": [
        {"name": "a", "family": "resnet1111", "width": 8},
        {"name": "b", "family": "resnet1111", "width": 8, "seed": 1},
    ],
    "pairs": [{"sender": "a", "receiver": "b"}],
}
LR = {"type": "float", "low": 0.001, "high": 0.1, "log": True}
EPOCHS = {"type": "int", "low": 1, "high": 4}


def problems(folder: Path, tree: object, **overrides: Any) -> list[str]:
    """Problems of a configuration without the file's name; empty for a valid one."""
    file = folder / "config.yml"
    content = tree if isinstance(tree, bytes) else yaml.safe_dump(tree).encode()
    file.write_bytes(content)
    try:
        read_config(file, overrides)
    except InputError as error:
        return [problem.removeprefix(f"{file}: ") for problem in error.problems]
    return []


def changed(path: str, value: object) -> dict[str, Any]:
    """BASE with the value at a dotted path replaced or added."""
    tree: dict[str, Any] = yaml.safe_load(yaml.safe_dump(BASE))
    *parents, last = path.split(".")
    node: Any = tree
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[int(last) if isinstance(node, list) else last] = value
    return tree


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"# nothing but words\n", "is empty"),
        (b"\x80\x00\xff", "is not a text file (UTF-8), expected a YAML file"),
        (b"seed: 0\x00", "is not YAML of plain values: unacceptable character"),
        (b"a: [1, 2\nb: }", "line 2, column 2: is not valid YAML: expected ',' or ']'"),
        (b"seed: 1\nseed: 2", "line 2, column 1: is not valid YAML: the key 'seed' is given twice"),
        (b"data:\n  name: x\n  name: y", "line 3, column 3: is not valid YAML: the key 'name'"),
        (b"on: 1", "the key 'on' is not text; quotes make it text"),
        (b"? [1, 2]\n: 3", "the key a list or mapping is not text"),
        (b"- 1", "expected key: value pairs, got a list of 1"),
        (b"hello", "expected key: value pairs, got 'hello'"),
        (b"a: 1\n---\nb: 2", "is not valid YAML"),
        (b"a:\n\t- b", "is not valid YAML: found character '\\t'"),
        (b"a: !!python/object/apply:os.system [ls]", "is not valid YAML: could not determine"),
        (b"a: !!binary aGk=", "is not YAML of plain values"),
        (b"a: &a [*a]", "is not YAML of plain values: Circular"),
        (b"[" * 5000, "is nested more than 50 levels deep"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_file_that_is_no_configuration(content, message, tmp_path):
    (found,) = problems(tmp_path, content)
    assert found.startswith(message) or message in found
    assert "\n" not in found


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"nope.yml: there is no such file"):
        read_config(tmp_path / "nope.yml")
    with pytest.raises(InputError, match="is a folder, expected a YAML file"):
        read_config(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_config("nul\0.yml")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("sed", "sed: unknown key: did you mean 'seed'?"),
        ("data.image_siz", "data.image_siz: unknown key: did you mean 'image_size'?"),
        ("networks.1.widht", "networks[1].widht: unknown key: did you mean 'width'?"),
        (
            "pairs.0.sender_layer",
            "pairs[0].sender_layer: unknown key: did you mean 'sender_layers'?",
        ),
        ("training.optimzer", "training.optimzer: unknown key: did you mean 'optimizer'?"),
        ("training.schedule.warm", "training.schedule.warm: unknown key: did you mean 'warmup'?"),
        (
            "training.optimizer.weight_deca",
            "training.optimizer.weight_deca: unknown argument of Adam: did you mean 'weight_decay'?",
        ),
        ("pretraining.epoch", "pretraining.epoch: unknown key: did you mean 'epochs'?"),
        ("stitch.nam", "stitch.nam: unknown key: did you mean 'name'?"),
        ("loss.mse.wieght", "loss.mse.wieght: unknown key: did you mean 'weight'?"),
        ("search.sample", "search.sample: unknown key: did you mean 'samples'?"),
        ("resources.cpus", "resources.cpus: unknown key: did you mean 'cpu'?"),
        ("tracking.url", "tracking.url: unknown key: did you mean 'uri'?"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(path, message, tmp_path):
    assert problems(tmp_path, changed(path, 1)) == [message]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", "0", "expected a whole number, got '0'"),
        ("seed", True, "expected a whole number, got true"),
        ("seed", -1, "expected a number of at least 0, got -1"),
        ("seed", None, "expected a whole number, got nothing; remove the key to use its default"),
        ("repeats", 0, "expected a number of at least 1, got 0"),
        ("training.epochs", 2.5, "expected a whole number, got 2.5"),
        ("training", [1], "expected key: value pairs, got a list of 1"),
        ("training", None, "expected key: value pairs, got nothing"),
        ("networks", {"a": 1}, "expected a list, got key: value pairs"),
        ("networks", [], "expected at least 1 in the list, got a list of 0"),
        ("pairs", "all", "expected a list, got 'all'"),
        ("data", 3, "expected key: value pairs, got 3"),
        ("data.name", "digts", "no data set is named 'digts': did you mean 'digits'?"),
        ("data.loader", "ffvc", "expected 'torch"),
        ("data.augment", "flip", "expected 'none' or 'crop_flip', got 'flip'"),
        ("data.val_fraction", 1, "expected a number below 1, got 1"),
        ("data.image_size", 0, "expected a number of at least 4, got 0"),
        ("networks.0.family", "resnt", "no network family is named 'resnt': did you mean 'resnet'?"),
        ("networks.0.blocks", [1, 1, 1, 1], "is fixed by family 'resnet1111'; remove it or"),
        ("networks.0.width", 0, "expected a number of at least 1, got 0"),
        ("networks.0.pretraining.epochs", 0, "expected a number of at least 1, got 0"),
        ("networks.0.layers", "all", "expected 'auto' or a list of names of cut points, got 'all'"),
        ("networks.0.weights", "traind", "expected 'trained', 'random', 'random_raw', 'class_only', "),
        ("networks.0.probes_of", "b", "only for weights: logits_only"),
        ("networks.1.name", "a", "'a' is the name of networks[0]"),
        ("pairs.0.sender", "aa", "no network is named 'aa': did you mean 'a'?"),
        ("pairs.0.sender_layers", "al", "expected 'all' or a list of layer indices, -1 (the image)"),
        ("pairs.0.receiver_layers", [0, -2], "expected 'all' or a list of layer indices, -1 (the image)"),
        ("pairs.0.receiver_layers", [], "expected 'all' or a list of layer indices"),
        ("pairs.0.receiver_layers", ["1"], "expected 'all' or a list of layer indices"),
        ("stitch.name", "papr", "no stitch is named 'papr': did you mean 'paper'?"),
        ("stitch.start", "zero", "expected 'random', 'identity', 'permutation', 'least_squares', "),
        ("loss", 3, "expected key: value pairs, got 3"),
        ("loss", {}, "expected at least one loss, such as task: 1.0"),
        ("loss.msee", 1.0, "no loss is named 'msee': did you mean 'mse'?"),
        ("training.optimizer.name", "sdg", "no optimizer of torch.optim is named 'sdg': did you"),
        ("training.optimizer.lr", 0, "expected a number above 0, got 0"),
        ("training.optimizer.betas", 3, "expected a list of 2 numbers, got 3"),
        ("training.optimizer.eps", "small", "expected a finite number, got 'small'"),
        ("training.optimizer.amsgrad", 1, "expected true or false, got 1"),
        ("training.schedule.name", "cosine", "expected 'warmup_cosine', 'linear' or 'constant', got"),
        ("training.schedule.warmup", 1, "expected a number below 1, got 1"),
        ("search.metric", "accuracy", "expected 'val_accuracy' or 'val_loss', got 'accuracy'"),
        ("search.mode", "maximize", "expected 'max' or 'min', got 'maximize'"),
        ("search.mode", "min", "expected 'max' for val_accuracy, got 'min'"),
        ("search.samples", 3, "is 3, but there is no space to sample from; use repeats"),
        ("search.space", [], "expected a file's path, or dotted paths with their distributions, got"),
        ("search.space", "/nope.yml", "/nope.yml: there is no such file"),
        ("search.sampler", 3, "expected key: value pairs, got 3"),
        ("search.parallel_per_study", 0, "expected a number of at least 1, got 0"),
        ("resources.cpu", 0, "expected a number of at least 1, got 0"),
        ("resources.cpu", "all", "expected a whole number, got 'all'"),
        ("resources.gpu", -1, "expected 'auto', 0, a share of one GPU or a whole number of GPUs, got"),
        ("resources.gpu", 1.5, "expected 'auto', 0, a share of one GPU or a whole number of GPUs, got"),
        ("resources.gpu", "all", "expected 'auto', 0, a share of one GPU or a whole number of GPUs, got"),
        ("resources.gpu", math.inf, "expected 'auto', 0, a share of one GPU or a whole number of GPUs"),
        ("resources.gpu", True, "expected 'auto', 0, a share of one GPU or a whole number of GPUs, got"),
        ("resources.cache_gb", -1, "expected a number of at least 0, got -1"),
        ("tracking.experiment", "", "expected text of at least 1 characters, got ''"),
        ("tracking.experiment", "../x", "expected a name of printable characters without empty parts"),
        ("tracking.experiment", "a\nb", "expected a name of printable characters"),
        ("tracking.enabled", "yes", "expected true or false, got 'yes'"),
        ("keep_stitches", "some", "expected 'all', 'best' or 'none', got 'some'"),
        ("zoo", "", "expected text of at least 1 characters, got ''"),
    ],
)  # fmt: skip
def test_a_wrong_value(path, value, message, tmp_path):
    found = problems(tmp_path, changed(path, value))
    where = path.replace(".0.", "[0].").replace(".1.", "[1].")
    assert any(problem.startswith(f"{where}: {message}") for problem in found), found
    text = "\n".join(found)
    for jargon in ("Input should", "instance of", "Config", "literal[", "list[", "dict[", "terms"):
        assert jargon not in text


def test_the_optimizer_itself_refuses_what_is_out_of_its_range(tmp_path):
    found = problems(tmp_path, changed("training.optimizer", {"name": "sgd", "momentum": -1}))
    assert found == ["training.optimizer: SGD refuses these settings: Invalid momentum value: -1"]


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".", "..", ".hidden", "a b", "a\n", "nul\0", "-x", "x" * 200, "ä"]
)
def test_a_network_name_stays_in_its_folder(name, tmp_path):
    tree = changed("networks.0.name", name)
    tree["pairs"][0]["sender"] = name
    (found,) = problems(tmp_path, tree)
    assert found.startswith("networks[0].name: expected ")
    assert len(found) < 200


def test_all_problems_come_at_once(tmp_path):
    tree = {
        "seed": -1,
        "data": {"name": "cifar10", "val_fraction": 2, "imag_size": 3},
        "networks": [
            {"name": "a", "family": "resnet", "blocks": [1, 1], "width": 0, "widht": 1},
            {"name": "a", "family": "resnet1111", "seed": "x"},
        ],
        "pairs": [{"sender": "b", "receiver": "a"}, {"sender": "a"}],
        "loss": {"mse": {"weight": -1, "scale": 2}, "ckka": 1},
        "training": {"optimizer": {"name": "sgd", "lr": -1, "momentum": "big", "betas": 1}},
        "extra": 1,
    }
    found = problems(tmp_path, tree)
    assert {problem.partition(":")[0] for problem in found} == {
        "seed", "data.path", "data.val_fraction", "data.imag_size", "networks[0].blocks",
        "networks[0].width", "networks[0].widht", "networks[1].name", "networks[1].seed",
        "pairs[0].sender", "pairs[1].receiver", "loss.mse.weight", "loss.mse.scale", "loss.ckka",
        "training.optimizer.lr", "training.optimizer.momentum", "training.optimizer.betas", "extra",
    }  # fmt: skip
    assert len(found) == 18


class TestSpaces:
    @pytest.mark.parametrize(
        ("distribution", "message"),
        [
            ({**LR, "low": 1}, ": low is 1, which is above high, 0.1"),
            ({**LR, "low": 0}, ".low: expected a number above 0, because log is true, got 0.0"),
            ({**LR, "step": 0.1}, ".step: not allowed with log: true"),
            ({**LR, "typ": 1}, ".typ: unknown key: did you mean 'type'?"),
            ({**LR, "low": float("nan")}, ".low: expected a finite number, got nan"),
            ({**LR, "type": "loguniform"}, ".type: expected 'float', 'int' or 'categorical'"),
            ({"type": "float", "low": 1}, ".high: is missing; float needs it"),
            ({"type": "float", "choices": [1]}, ".choices: not allowed for float; use low and high"),
            ({"type": "categorical"}, ".choices: expected a list of at least one choice"),
            ({"type": "categorical", "choices": [1, 1.0]}, ".choices: contains 1.0 twice"),
            ({"type": "categorical", "choices": [1], "low": 1}, ".low: not allowed for categorical"),
            ({**LR, "when": {"stitch.name": []}}, ".when.stitch.name: expected a value or a list of"),
            ({**LR, "when": {"foo.bar": 1}}, ".when: foo.bar is not a setting"),
            ({**LR, "when": {"training.optimizer.lr": 1}}, ".when: training.optimizer.lr depends"),
            ({**LR, "when": {"stitch.name": "papper"}}, " = 0.001: stitch.name: no stitch is named"),
            (3, ": expected key: value pairs, got 3"),
        ],
    )  # fmt: skip
    def test_a_wrong_distribution(self, distribution, message, tmp_path):
        found = problems(tmp_path, changed("search.space", {"training.optimizer.lr": distribution}))
        assert any(p.startswith(f"search.space.training.optimizer.lr{message}") for p in found), (
            found
        )

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            ({"training.optimzer.lr": LR}, ".training.optimzer.lr = 0.001: training.optimzer: unknown"),
            ({"seed": EPOCHS}, ".seed: can't differ between trials; only settings in stitch, loss,"),
            ({"training.epochs": LR}, ".training.epochs = 0.001: expected a whole number, got 0.001"),
            (
                {"stitch.name": {"type": "categorical", "choices": ["paper", "papr"]}},
                ".stitch.name = \"papr\": no stitch is named 'papr': did you mean 'paper'?",
            ),
            (
                {"training.epochs": EPOCHS, "training.epochs.x": EPOCHS},
                ".training.epochs.x = 1: training.epochs is 4, so it has no keys below it",
            ),
        ],
    )  # fmt: skip
    def test_a_path_that_leads_nowhere(self, space, message, tmp_path):
        found = problems(tmp_path, changed("search.space", space))
        assert found[0].startswith(f"search.space{message}"), found

    def test_conditions_in_a_circle(self, tmp_path):
        space = {
            "training.epochs": {
                "type": "categorical", "choices": [1, 2], "when": {"training.batch_size": 8},
            },
            "training.batch_size": {
                "type": "categorical", "choices": [8, 16], "when": {"training.epochs": 1},
            },
        }  # fmt: skip
        found = problems(tmp_path, changed("search.space", space))
        assert found == [
            f"search.space.{path}.when: {path} depends on itself" for path in sorted(space)
        ]

    def test_a_condition_that_never_holds(self, tmp_path):
        space = {
            "stitch.name": {"type": "categorical", "choices": ["paper", "conv1x1"]},
            "training.epochs": {**EPOCHS, "when": {"stitch.name": "linear"}},
        }
        (found,) = problems(tmp_path, changed("search.space", space))
        assert found.startswith('search.space.training.epochs.when.stitch.name: is never "linear"')
        assert found.endswith('possible: "paper", "conv1x1"')

    def test_two_settings_that_don_t_go_together(self, tmp_path):
        space = {
            "training.optimizer.name": {"type": "categorical", "choices": ["sgd", "adam"]},
            "training.optimizer.momentum": {"type": "categorical", "choices": [0.5]},
        }
        found = problems(tmp_path, changed("search.space", space))
        assert any("unknown argument of Adam" in problem for problem in found)
        space["training.optimizer.momentum"]["when"] = {"training.optimizer.name": "sgd"}
        assert problems(tmp_path, changed("search.space", space)) == []

    def test_a_section_and_what_lies_in_it(self, tmp_path):
        tree = changed(
            "search",
            {
                "cross": {
                    "training.optimizer": [{"name": "sgd", "momentum": 0.9}, {"name": "adam"}]
                },
                "space": {"training.optimizer.lr": LR},
                "samples": 2,
            },
        )
        assert problems(tmp_path, tree) == []
        # The section is replaced first, whatever the order of the overrides.
        settings = Config.model_validate(tree).trial_settings(
            {"training.optimizer.lr": 0.5, "training.optimizer": {"name": "sgd"}}
        )
        assert settings.training.optimizer.lr == 0.5
        assert settings.training.optimizer.name == "sgd"


@pytest.mark.parametrize(
    ("cross", "message"),
    [
        (
            {"loss": [{"task": 1.0}, {"msee": 1.0}]},
            "search.cross.loss[1]: loss.msee: no loss is named 'msee': did you mean 'mse'?",
        ),
        ({"loss": []}, "search.cross.loss: expected at least 1 in the list"),
        ({"loss": {"task": 1}}, "search.cross.loss: expected a list, got key: value pairs"),
        ({"los": [1]}, "search.cross.los: can't differ between trials; only settings in stitch"),
        ({"data.name": ["digits"]}, "search.cross.data.name: can't differ between trials"),
        ({"training.epochs": [1, 1]}, "search.cross.training.epochs: contains 1 twice"),
        ({"training.epochs.x": [1]}, "search.cross.training.epochs.x[0]: training.epochs is 4"),
        (["loss"], "search.cross: expected key: value pairs, got a list of 1"),
    ],
)
def test_wrong_crossed_values(cross, message, tmp_path):
    (found,) = problems(tmp_path, changed("search.cross", cross))
    assert found.startswith(message)


def test_a_path_is_crossed_or_searched_but_not_both(tmp_path):
    search = {"cross": {"training.optimizer.lr": [0.1]}, "space": {"training.optimizer.lr": LR}}
    found = problems(tmp_path, changed("search", search))
    assert found == ["search: training.optimizer.lr is both crossed and searched; choose one"]


class TestOverrides:
    def read(self, folder: Path, key: str, value: Any) -> Config:
        file = folder / "config.yml"
        file.write_text(yaml.safe_dump(changed("loss", {"mse": 1.0})))
        return read_config(file, {key: value})

    def test_replace_one_key_at_any_depth(self, tmp_path):
        assert self.read(tmp_path, "seed", 3).seed == 3
        assert self.read(tmp_path, "training.optimizer.lr", 0.5).training.optimizer.lr == 0.5
        assert self.read(tmp_path, "networks[1].width", 4).networks[1].options["width"] == 4
        assert self.read(tmp_path, "networks.1.width", 4).networks[1].options["width"] == 4
        assert self.read(tmp_path, "loss.mse.weight", 0.5).loss.label == "0.5*mse"

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("data.name.x", "--set data.name.x: data.name is 'digits', so it has no keys below it"),
            ("networks.x", "--set networks.x: networks is a list of 2; its entries are named"),
            ("networks[2].width", "--set networks[2].width: networks is a list of 2"),
            ("sed", "{file}: sed: unknown key: did you mean 'seed'?"),
        ],
    )
    def test_that_lead_nowhere(self, key, message, tmp_path):
        with pytest.raises(InputError) as caught:
            self.read(tmp_path, key, 1)
        assert caught.value.problems[0].startswith(message.format(file=tmp_path / "config.yml"))

    def test_values_are_yaml(self):
        texts = ("1", "1e-3", "true", "[1, 2]", "{a: 1}", "abc", "", "{a: 1", "2020-13-45", "1:b")
        assert [parse_value(text) for text in texts] == [
            1, 0.001, True, [1, 2], {"a": 1}, "abc", None, "{a: 1", "2020-13-45", "1:b",
        ]  # fmt: skip


class TestPaths:
    def test_are_looked_up_beside_the_file_then_in_the_root(self, tmp_path, monkeypatch):
        root, beside, here = tmp_path / "root", tmp_path / "root/sub/beside", tmp_path / "here"
        for folder in (root, beside, here):
            folder.mkdir(parents=True)
            (folder / "space.yml").write_text(yaml.safe_dump({"training.epochs": EPOCHS}))
            (folder / "w.safetensors").touch()
        (beside / "train-0.parquet").touch()
        (root / "stitch-sweep.yml").touch()
        monkeypatch.chdir(here)
        tree = changed("networks.0.weights", "w.safetensors")
        tree["data"] = {"name": "parquet", "path": "*.parquet"}
        tree["search"] = {"space": "space.yml"}
        file = beside / "config.yml"
        file.write_text(yaml.safe_dump(tree))
        found = read_config(file)
        assert found.networks[0].weights_file == beside / "w.safetensors"
        assert found.data.options["path"] == str(beside / "*.parquet")
        (beside / "w.safetensors").unlink()
        (beside / "space.yml").unlink()
        found = read_config(file)
        assert found.networks[0].weights_file == root / "w.safetensors"
        assert found.search.distributions.keys() == {"training.epochs"}
        (root / "w.safetensors").unlink()
        assert read_config(file).networks[0].weights_file == root / "w.safetensors"

    def test_a_file_named_random_is_no_weights_file(self, tmp_path):
        (tmp_path / "random").touch()
        file = tmp_path / "config.yml"
        file.write_text(yaml.safe_dump(changed("networks.0.weights", "random")))
        assert read_config(file).networks[0].weights_file is None

    def test_a_zoo_is_a_folder(self, tmp_path):
        (tmp_path / "zoo").touch()
        (found,) = problems(tmp_path, BASE)
        assert found == f"zoo: {tmp_path / 'zoo'} is a file, expected a folder"


FULL = {
    **BASE,
    "loss": {"task": 1.0, "mse": {"weight": 0.5}},
    "training": {"optimizer": {"name": "Adam", "betas": [0.8, 0.9]}, "log_every": 3},
    "search": {
        "cross": {"stitch.name": ["paper", "conv1x1"]},
        "space": {
            "training.optimizer.lr": LR,
            "training.epochs": {**EPOCHS, "when": {"stitch.name": ["paper"]}},
        },
        "samples": 3,
        "sampler": {"name": "tpe", "n_startup_trials": 2},
        "metric": "val_loss",
    },
}


@pytest.mark.parametrize("source", [BASE, FULL, *SHIPPED], ids=["base", "full", *map(str, SHIPPED)])
def test_what_is_written_reads_back_equal(source, tmp_path):
    if isinstance(source, dict):
        (tmp_path / "config.yml").write_text(yaml.safe_dump(source))
        source = tmp_path / "config.yml"
    config = read_config(source)
    file = tmp_path / "config.resolved.yml"
    file.write_text(to_yaml(config, tmp_path))
    again = read_config(file)
    assert again == config
    assert to_yaml(again) == to_yaml(config)


def test_defaults_are_filled_in():
    tree = yaml.safe_load(to_yaml(Config.model_validate(BASE)))
    assert tree["training"]["schedule"] == {"name": "warmup_cosine", "warmup": 0.1}
    assert tree["networks"][0]["blocks"] == [1, 1, 1, 1]
    assert tree["search"]["sampler"] == {"name": "tpe"}
    assert tree["loss"] == {"task": 1.0}


def test_what_is_not_trained_here_has_no_pretraining(tmp_path):
    network = {**BASE["networks"][0], "weights": "random", "pretraining": {"epochs": 1}}
    found = problems(tmp_path, {**BASE, "networks": [network, BASE["networks"][1]]})
    assert found == ["networks[0].pretraining: only for weights: trained"]


def test_a_network_of_its_own_training_takes_the_rest_from_the_configuration():
    own = {"optimizer": {"name": "adamw", "lr": 0.001}}
    networks = [{**BASE["networks"][0], "pretraining": own}, *BASE["networks"][1:]]
    tree = {
        **BASE,
        "networks": networks,
        "pretraining": {"epochs": 7},
        "controls": ["untrained_both"],
    }
    config = Config.model_validate(tree)
    found = {network.name: network.pretraining for network in config.networks}
    mine = found.pop(networks[0]["name"])
    assert (mine.epochs, mine.optimizer.name, mine.optimizer.lr) == (7, "adamw", 0.001)
    assert set(found.values()) == {None}, "untrained networks have no pretraining"
    assert config.pretraining.optimizer.name == "sgd"
    assert Config.model_validate(yaml.safe_load(to_yaml(config))) == config


def test_minimising_goes_with_the_loss():
    tree = changed("search.metric", "val_loss")
    assert Config.model_validate(tree).search.mode == "min"
    assert Config.model_validate(BASE).search.mode == "max"


def test_labels_of_factors():
    assert label({"task": 1.0, "mse": 0.5}) == "task+0.5*mse"
    assert label("paper") == "paper"
    assert label([1, 2]) == "[1, 2]"
    assert LossConfig.model_validate({"mse": {"weight": 1}}).label == "mse"
    # Otherwise losses that differ only in an option would share a matrix.
    warm = LossConfig.model_validate({"soft_task": {"weight": 2, "temperature": 8}})
    assert warm.label == "2*soft_task(temperature=8.0)"
    assert LossConfig.model_validate({"soft_task": 1}).label == "soft_task"


class TestShippedSpaces:
    def test_are_there(self):
        assert [file.stem for file in SPACES] == ["full", "quick", "similarity"]

    def test_grid_refuses_the_ranges_of_quick(self):
        overrides = {
            "search.space": str(ROOT / "search_spaces/quick.yml"),
            "search.sampler": "grid",
        }
        with pytest.raises(InputError, match=r"search.space.training.optimizer.lr: grid can't"):
            check_sampler(read_config(QUICKSTART, overrides))

    def test_grid_enumerates_quick_once_its_range_is_a_list(self):
        space = yaml.safe_load((ROOT / "search_spaces/quick.yml").read_text())
        space["training.optimizer.lr"] = {"type": "categorical", "choices": [0.001, 0.01]}
        config = read_config(QUICKSTART, {"search.space": space, "search.sampler": "grid"})
        check_sampler(config)
        points = list(combinations(config, Study("a", 0, "b", 0, {"loss": {"task": 1.0}})))
        # Two stitches and two rates; three warm-ups, or none.
        assert len(points) == 2 * 2 * (3 + 1)

    def test_full_has_every_stitch_that_joins_any_two_maps_and_every_loss(self):
        space = yaml.safe_load((ROOT / "search_spaces/full.yml").read_text())
        # These need equal shapes, equal channels, or integer ratios; `linear` is huge between maps.
        special = {"identity", "affine", "paper", "linear"}
        assert {*space["stitch.name"]["choices"], *special} == set(STITCHES.names())
        assert {name for choice in space["loss"]["choices"] for name in choice} == set(
            LOSSES.names()
        )


class TestDocumentation:
    """docs/reference/configuration.md is generated from descriptions, so none may be missing."""

    TEXT = (ROOT / "docs/reference/configuration.md").read_text()

    def models(self) -> list[type[BaseModel]]:
        """All models of the package that a section may have."""
        names = pkgutil.iter_modules(stitch_sweep.config.__path__, "stitch_sweep.config.")
        modules = [importlib.import_module(module.name) for module in names]
        values = [value for module in modules for value in vars(module).values()]
        models = [v for v in values if isinstance(v, type) and issubclass(v, BaseModel)]
        return list(dict.fromkeys(models))

    def test_every_field_has_a_description(self):
        fields = [
            (model.__name__, key, field)
            for model in self.models()
            for key, field in model.model_fields.items()
            if key != "root"
        ]
        assert len(fields) > 80
        assert [(name, key) for name, key, field in fields if not field.description] == []

    def test_has_every_key(self):
        keys = {key for model in self.models() for key in model.model_fields} - {"root"}
        assert {"sender_layers", "val_fraction", "cache_gb", "warmup", "when"} <= keys
        assert [key for key in sorted(keys) if f"`{key}`" not in self.TEXT] == []

    def test_has_every_allowed_word(self):
        words = {
            word
            for model in self.models()
            for field in model.model_fields.values()
            for word in literals(field.annotation)
        }
        assert {"warmup_cosine", "crop_flip", "best"} <= words
        assert [word for word in sorted(words) if f"`{word}`" not in self.TEXT] == []


def literals(annotation: object) -> list[str]:
    arguments = get_args(annotation)
    return [
        *(a for a in arguments if isinstance(a, str)),
        *itertools.chain.from_iterable(literals(a) for a in arguments if not isinstance(a, str)),
    ]


def test_a_component_can_be_validated_again():
    config = Config.model_validate(BASE)
    assert Config.model_validate(config) == config
    assert isinstance(config.data, Component)
    with pytest.raises(ValidationError):
        Distribution.model_validate({"type": "float"})
