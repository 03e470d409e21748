"""Short forms mean the same as long ones; keys in a wrong section are pointed to their place."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.config.root import Config
from stitch_sweep.config.space import search_problems
from stitch_sweep.config.trial import label
from stitch_sweep.core.problems import describe_problems
from stitch_sweep.storage.study import Study

NETWORKS: dict[str, Any] = {
    "networks": [
        {"name": "a", "family": "resnet1111", "width": 8},
        {"name": "b", "family": "resnet1111", "width": 8, "seed": 1},
    ],
    "pairs": [{"sender": "a", "receiver": "b"}],
}
SHORT: dict[str, Any] = {
    **NETWORKS,
    "data": "digits",
    "stitch": "conv1x1",
    "loss": "mse",
    "training": {"recipe": "fast"},
    "search": {
        "cross": {"stitch": ["paper", "conv1x1"]},
        "space": {
            "loss": {"type": "categorical", "choices": ["task", "mse"]},
            "training.epochs": {"type": "int", "low": 1, "high": 3, "when": {"loss": "task"}},
        },
        "samples": 2,
        "enqueue": [{"loss": "mse"}],
    },
}
LONG: dict[str, Any] = {
    **NETWORKS,
    "data": {"name": "digits"},
    "stitch": {"name": "conv1x1"},
    "loss": {"mse": 1.0},
    "training": {"recipe": "fast"},
    "search": {
        "cross": {"stitch": [{"name": "paper"}, {"name": "conv1x1"}]},
        "space": {
            "loss": {"type": "categorical", "choices": [{"task": 1.0}, {"mse": 1.0}]},
            "training.epochs": {
                "type": "int",
                "low": 1,
                "high": 3,
                "when": {"loss": {"task": 1.0}},
            },
        },
        "samples": 2,
        "enqueue": [{"loss": {"mse": 1.0}}],
    },
}


def test_short_and_long_forms_are_the_same_configuration(tmp_path):
    texts = []
    for tree in (SHORT, LONG):
        (tmp_path / "config.yml").write_text(yaml.safe_dump(tree))
        texts.append(to_yaml(read_config(tmp_path / "config.yml"), tmp_path))
    assert texts[0] == texts[1]
    short, long = (Config.model_validate(tree) for tree in (SHORT, LONG))
    assert short == long
    assert short.stitch.start == "auto", "a recipe sets keys beside a short form"
    for factors, others in zip(
        short.factor_combinations(), long.factor_combinations(), strict=True
    ):
        assert Study("a", 0, "b", 0, factors).id == Study("a", 0, "b", 0, others).id
        assert short.trial_settings(factors) == long.trial_settings(others)


def test_a_key_is_set_below_a_short_form(tmp_path):
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(SHORT))
    overrides = {"stitch.start": "identity", "data.image_size": 16, "loss.task": 0.5}
    config = read_config(file, overrides)
    assert (config.stitch.name, config.stitch.start) == ("conv1x1", "identity")
    assert (config.data.name, config.data.image_size) == ("digits", 16)
    assert config.loss.label == "mse+0.5*task"


def test_a_list_of_losses_is_refused_because_it_could_mean_two_things():
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({**SHORT, "loss": ["task", "mse"]})
    (problem,) = describe_problems(caught.value, Config)
    assert problem.startswith("loss: expected a name, or names with weights")
    assert "search.cross.loss" in problem


def test_labels_of_stitches():
    assert label({"name": "conv1x1"}) == "conv1x1"
    assert label({"name": "mlp", "hidden": 64, "start": "auto"}) == "mlp(start=auto, hidden=64)"
    assert label({"name": "sgd"}) == '{"name": "sgd"}', "an optimizer is no stitch"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"lr": 0.1}}, "training.lr: unknown key: set training.optimizer.lr"),
        (
            {"lr": 0.1},
            "lr: unknown key: set training.optimizer.lr or pretraining.optimizer.lr",
        ),
        ({"samples": 3}, "samples: unknown key: set search.samples"),
        ({"width": 8}, "width: unknown key: set networks[0].width"),
        ({"hidden": 8}, "hidden: unknown key: set stitch.hidden"),
        ({"temperature": 4}, "temperature: unknown key: set loss.soft_task.temperature"),
        (
            {"training": {"optimizer": {"warmup": 0.1}}},
            "training.optimizer.warmup: unknown key: set training.schedule.warmup",
        ),
        (
            {"training": {"weight_decay": 0.1}},
            "training.weight_decay: unknown key: set training.optimizer.weight_decay",
        ),
    ],
)
def test_a_misplaced_key_is_pointed_to_its_place(changes, message):
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({**NETWORKS, "data": "digits", **changes})
    assert describe_problems(caught.value, Config) == [message]


def test_a_searched_path_is_pointed_to_its_place():
    tree = {**NETWORKS, "data": "digits", "search": {"cross": {"lr": [0.1, 0.2]}}}
    (problem,) = search_problems(Config.model_validate(tree))
    assert problem.endswith("; set training.optimizer.lr")


def test_a_stitch_with_options_is_searched_by_name():
    names = ["mlp", "conv1x1", "conv3x3", "lowrank"]
    tree = {
        **NETWORKS,
        "data": "digits",
        "stitch": {"name": "mlp", "hidden": 8, "down": "strided", "start": "auto"},
        "search": {
            "space": {"stitch.name": {"type": "categorical", "choices": names}},
            "samples": 4,
        },
    }
    config = Config.model_validate(tree)
    assert list(search_problems(config)) == []
    chosen = {name: config.trial_settings({"stitch.name": name}).stitch for name in names}
    assert chosen["mlp"].options["hidden"] == 8
    assert "hidden" not in chosen["conv1x1"].options
    assert chosen["lowrank"].options["down"] == "strided", "both have it"
    assert chosen["conv3x3"].options["down"] == "average", "conv3x3 doesn't allow strided"
    assert {stitch.start for stitch in chosen.values()} == {"auto"}
    # An option that is searched itself needs a condition, as before.
    tree["search"] = {"cross": {"stitch.name": names[:2], "stitch.hidden": [4, 8]}}
    problems = list(search_problems(Config.model_validate(tree)))
    assert any("stitch.hidden: unknown key" in problem for problem in problems)
