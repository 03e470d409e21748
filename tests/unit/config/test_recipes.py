"""Recipes: which value a key gets, beside, crossed and searched."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from stitch_sweep.config.reading import read_config, to_yaml
from stitch_sweep.config.recipe import TRAINING_RECIPES
from stitch_sweep.config.root import Config
from stitch_sweep.config.training import RECIPE_NAMES, TrainingConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.plan.equal_trials import EffectiveSettings
from stitch_sweep.storage.study import Study
from tests.support.cases import check_all
from tests.support.paths import ROOT

BASE = {
    "data": {"name": "digits"},
    "networks": [{"name": "a", "family": "resnet1111", "width": 4}],
    "pairs": [{"sender": "a", "receiver": "a"}],
}
PAPER_SGD = {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}


def config(**sections: Any) -> Config:
    return Config.model_validate({**BASE, **sections})


def value_at(settings: TrialSettings, path: str) -> Any:
    section, *rest = path.split(".")
    tree: Any = settings.all_values()[section]
    for key in rest:
        tree = tree[key]
    return tree


CROSSED = {"cross": {"training.recipe": ["paper", None]}}
# What is written, what a trial overrides, and the values that it has.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "no recipe": ({}, {}, {"training.epochs": 4, "training.batch_size": 64}),
    "a recipe": (
        {"training": {"recipe": "paper"}},
        {},
        {"training.batch_size": 256, "training.optimizer": PAPER_SGD, "stitch.start": "random"},
    ),
    "a key beside it": (
        {"training": {"recipe": "paper", "batch_size": 8}},
        {},
        {"training.batch_size": 8, "training.optimizer": PAPER_SGD},
    ),
    "a key of its optimizer beside it": (
        {"training": {"recipe": "paper", "optimizer": {"lr": 0.5}}},
        {},
        {"training.optimizer": {**PAPER_SGD, "lr": 0.5}},
    ),
    "another optimizer beside it": (
        {"training": {"recipe": "paper", "optimizer": {"name": "adam"}}},
        {},
        {"training.optimizer": {"name": "adam", "lr": None}},
    ),
    "a start beside it": (
        {"training": {"recipe": "paper"}, "stitch": {"start": "identity"}},
        {},
        {"stitch.start": "identity", "training.batch_size": 256},
    ),
    "crossed": (
        {"search": CROSSED},
        {"training.recipe": "paper"},
        {"training.batch_size": 256, "training.optimizer": PAPER_SGD},
    ),
    "crossed with none": (
        {"search": CROSSED},
        {"training.recipe": None},
        {"training.batch_size": 64, "training.optimizer": {"name": "adam", "lr": None}},
    ),
    "crossed, with a key that has its default value": (
        {"search": CROSSED, "training": {"batch_size": 64}},
        {"training.recipe": "paper"},
        {"training.batch_size": 64, "training.optimizer": PAPER_SGD},
    ),
    "the base recipe is replaced, and its values with it": (
        {"search": CROSSED, "training": {"recipe": "paper", "epochs": 9}},
        {"training.recipe": None},
        {
            "training.epochs": 9,
            "training.batch_size": 64,
            "training.optimizer": {"name": "adam", "lr": None},
        },
    ),
    "crossed and searched": (
        {"search": CROSSED},
        {"training.recipe": "paper", "training.epochs": 1, "training.optimizer.lr": 0.2},
        {"training.epochs": 1, "training.optimizer": {**PAPER_SGD, "lr": 0.2}},
    ),
    "a whole section is crossed": (
        {"search": {"cross": {"training": [{"recipe": "paper"}, {"epochs": 3}]}}},
        {"training": {"recipe": "paper"}},
        {"training.batch_size": 256, "training.epochs": 4},
    ),
    "a whole section without a recipe is crossed": (
        {
            "training": {"recipe": "paper"},
            "search": {"cross": {"training": [{"recipe": "paper"}, {"epochs": 3}]}},
        },
        {"training": {"epochs": 3}},
        {"training.batch_size": 64, "training.epochs": 3},
    ),
}


@pytest.mark.parametrize("written", ["as given", "read from config.resolved.yml"])
def test_which_value_a_key_gets(written):
    def check(name: str) -> None:
        sections, overrides, expected = CASES[name]
        base = config(**sections)
        if written != "as given":
            text = to_yaml(base)
            again = Config.model_validate(yaml.safe_load(text))
            assert again == base
            assert to_yaml(again) == text
            base = again
        trial = base.trial_settings(overrides)
        assert {path: value_at(trial, path) for path in expected} == expected
        # A worker reads the settings from the trial's record.
        record = json.loads(json.dumps(trial.model_dump(mode="json")))
        assert TrialSettings.model_validate(record) == trial

    check_all([(name,) for name in CASES], check)


def test_the_resolved_configuration_has_the_values_of_the_recipe():
    tree = yaml.safe_load(to_yaml(config(training={"recipe": "paper", "epochs": 2})))
    assert tree["training"]["recipe"] == "paper"
    assert tree["training"]["optimizer"] == PAPER_SGD
    assert tree["training"]["epochs"] == 2
    assert tree["training"]["keys_beside_recipe"] == ["training.epochs"]


def test_an_edited_resolved_configuration_keeps_the_edit():
    tree = yaml.safe_load(to_yaml(config(training={"recipe": "paper"}, search=CROSSED)))
    tree["training"]["batch_size"] = 32
    edited = Config.model_validate(tree)
    assert edited.training.keys_beside_recipe == ["training.batch_size"]
    assert edited.trial_settings({"training.recipe": None}).training.batch_size == 32


def test_a_configuration_without_a_recipe_is_described_as_before():
    keys = ["epochs", "batch_size", "optimizer", "schedule", "log_every"]
    assert list(config().model_dump()["training"]) == keys
    crossed = config(search={"cross": {"training": [{"epochs": 1}, {"epochs": 2}]}})
    assert list(crossed.model_dump()["training"]) == keys
    assert list(TrialSettings().model_dump()["training"]) == keys


def test_a_default_beside_a_recipe_survives_the_record():
    trial = config().trial_settings({"training.recipe": "fast", "training.keep": "last"})
    assert trial.training.keep == "last"
    assert TrialSettings.model_validate(trial.model_dump(mode="json")) == trial


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_a_recipe_and_its_values_written_out_are_the_same_trial(name):
    study = Study("a", 0, "a", 1, {}, 0)
    named = TrialSettings.model_validate({"training": {"recipe": name}})
    spelled = TrialSettings.model_validate(
        {"training": TRAINING_RECIPES[name]["training"], "stitch": TRAINING_RECIPES[name]["stitch"]}
    )
    assert spelled.training.recipe is None
    key = EffectiveSettings().key
    assert key(study, named) == key(study, spelled)
    assert key(study, named) != key(study, TrialSettings())


def test_the_default_rate_of_whitened_coordinates_is_no_rate_that_is_written_out():
    """It depends on the cell, so 0.03, the default of raw coordinates, is another trial."""
    study, key = Study("a", 0, "a", 1, {}, 0), EffectiveSettings().key

    def trial(**values: Any) -> TrialSettings:
        return TrialSettings.model_validate({"training": values})

    written = {"name": "adam", "lr": 0.03}
    assert key(study, trial()) == key(study, trial(optimizer=written))
    whitened = trial(coordinates="whitened")
    assert key(study, whitened) != key(study, trial(coordinates="whitened", optimizer=written))


def test_every_recipe_sets_every_key_that_decides_a_result():
    keys = set(TrainingConfig.model_fields) - {"recipe", "keys_beside_recipe", "log_every"}
    assert set(TRAINING_RECIPES) == set(RECIPE_NAMES)
    for recipe in TRAINING_RECIPES.values():
        assert set(recipe["training"]) == keys
        assert set(recipe["stitch"]) == {"start"}


def test_the_recipe_of_the_paper_is_that_of_the_published_experiment():
    experiment = read_config(ROOT / "experiments/cifar10/r1111/config.yml")
    paper = TrialSettings.model_validate({"training": {"recipe": "paper"}})
    assert paper.stitch.start == experiment.stitch.start
    named = {**paper.training.all_values(), "recipe": None}
    assert named == experiment.training.all_values()


@pytest.mark.parametrize("value", [0, 1.0, 1.5, -1, "often", True])
def test_an_interval_is_a_share_or_a_number_of_steps(value):
    with pytest.raises(ValueError, match="a share of an epoch"):
        TrainingConfig.model_validate({"evaluate_every": value})
    for allowed in (1, 7, 0.25, None):
        assert TrainingConfig.model_validate({"evaluate_every": allowed}).evaluate_every == allowed
