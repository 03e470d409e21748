"""Recipes: everything that determines weights changes the hash."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from stitch_sweep.config.pretraining import PRETRAINING_RECIPES
from stitch_sweep.config.reading import to_yaml
from stitch_sweep.config.root import Config
from stitch_sweep.data.images import Data, Images
from stitch_sweep.networks.recipes import Recipe
from tests.support.networks_zoo import recipe


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
        recipe(digits, pretraining={"recipe": "fast"}),
        recipe(digits, pretraining={"precision": "bfloat16"}),
        recipe(digits, pretraining={"memory_format": "channels_last"}),
        recipe(digits, pretraining={"label_smoothing": 0.1}),
        recipe(digits, pretraining={"label_smoothing": 0.2}),
        recipe(digits, pretraining={"whiten_stem": True}),
        recipe(digits, pretraining={"augment": "alternating_flip"}),
        recipe(digits, pretraining={"augment": "crop_alternating_flip"}),
        recipe(digits, data={"augment": "crop_flip"}),
        recipe(digits, resources={"cpu": 2}),
        recipe(changed(digits, "train", "images")),
        recipe(changed(digits, "train", "labels")),
        recipe(dataclasses.replace(digits, mean=digits.mean + 1e-6)),
        recipe(dataclasses.replace(digits, classes=(*digits.classes, "ten"))),
    ]
    assert len({first, *(r.hash for r in different)}) == len(different) + 1
    override = recipe(digits, {"pretraining": {"epochs": 4}})
    assert override.hash == recipe(digits, pretraining={"epochs": 4}).hash, (
        "in the network or in its own section"
    )


def test_an_untrained_network_does_not_depend_on_how_others_are_trained(digits):
    for kind in ("random", "random_raw"):
        assert (
            recipe(digits, {"weights": kind}).hash
            == recipe(digits, {"weights": kind}, pretraining={"epochs": 9}).hash
        )


def test_recipes_of_older_versions_keep_their_hashes(digits):
    """Networks of older zoos are found again: hashes of the version before `recipe: fast`."""
    fixed = dataclasses.replace(digits, fingerprint="")
    hashes = {
        recipe(fixed).hash: "faec631f26b569fb",
        recipe(
            fixed,
            data={"augment": "crop_flip"},
            pretraining={
                "epochs": 15,
                "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
            },
        ).hash: "dae34a73fead043a",
    }
    assert list(hashes) == list(hashes.values())


def test_the_name_of_a_recipe_is_no_part_of_it(digits):
    spelled_out = dict(PRETRAINING_RECIPES["fast"])
    fast = recipe(digits, pretraining={"recipe": "fast", "epochs": 2, "batch_size": 32})
    same = {**spelled_out, "epochs": 2, "batch_size": 32}
    assert recipe(digits, pretraining=same).content == fast.content
    assert (
        recipe(digits, pretraining={"recipe": "plain"}).content
        == recipe(digits, pretraining={"label_smoothing": 0.0}).content
        == recipe(digits).content
    )
    for section in ("pretraining", "data"):
        assert recipe(digits, **{section: {"augment": "crop_flip"}}).content == (
            recipe(digits, data={"augment": "crop_flip"}).content
        )


FAST = PRETRAINING_RECIPES["fast"]
NESTEROV = FAST["optimizer"]


@pytest.mark.parametrize(
    ("section", "network", "expected"),
    [
        ({}, {}, {"label_smoothing": 0.0, "precision": "float32"}),
        ({"recipe": "fast"}, {}, dict(FAST)),
        ({"recipe": "fast", "epochs": 3}, {}, {**FAST, "epochs": 3}),
        ({"recipe": "fast", "whiten_stem": False}, {}, {**FAST, "whiten_stem": False}),
        # A section without a name changes single keys of the recipe's; with a name it replaces it.
        (
            {"recipe": "fast", "optimizer": {"lr": 0.3}},
            {},
            {**FAST, "optimizer": {**NESTEROV, "lr": 0.3}},
        ),
        (
            {"recipe": "fast", "optimizer": {"name": "adam"}},
            {},
            {**FAST, "optimizer": {"name": "adam", "lr": None}},
        ),
        (
            {"recipe": "fast", "schedule": {"warmup": 0.5}},
            {},
            {**FAST, "schedule": {"name": "linear", "warmup": 0.5}},
        ),
        # A network's own keys come on top of the section's, and its recipe replaces the section's.
        ({"recipe": "fast"}, {"epochs": 3}, {**FAST, "epochs": 3}),
        ({"epochs": 3}, {"recipe": "fast"}, {**FAST, "epochs": 3}),
        (
            {"recipe": "fast", "epochs": 3},
            {"recipe": "plain"},
            {"epochs": 3, "optimizer": {"name": "sgd", "lr": 0.1}, "precision": "float32"},
        ),
        (
            {"recipe": "fast", "optimizer": {"lr": 0.3}},
            {"optimizer": {"lr": 0.4}},
            {**FAST, "optimizer": {**NESTEROV, "lr": 0.4}},
        ),
    ],
)
def test_a_recipe_gives_values_to_the_keys_that_nobody_sets(section, network, expected):
    tree = tree_of({"pretraining": section}, network)
    config = Config.model_validate(tree)
    again = Config.model_validate(yaml.safe_load(to_yaml(config)))
    for read in (config, again):
        used = read.networks[0].pretraining or read.pretraining
        values = {k: v for k, v in used.model_dump(mode="json").items() if k in expected}
        defaults = {k: v for k, v in expected.items() if k not in values}
        assert {**values, **{k: getattr(used, k) for k in defaults}} == expected
    assert again == config
    assert to_yaml(again) == to_yaml(config)


def test_keys_that_fit_no_recipe_are_refused_at_their_network():
    tree = tree_of({"pretraining": {"recipe": "fast", "optimizer": {"momentum": 0.8}}})
    tree["networks"][0]["pretraining"] = {"recipe": "plain"}
    with pytest.raises(ValidationError) as refused:
        Config.model_validate(tree)
    places = [error["loc"] for error in refused.value.errors()]
    assert places == [("networks", 0, "pretraining", "optimizer", "momentum")]


def tree_of(sections: dict[str, Any], own: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a raw configuration of one network, with its own section `pretraining` if there is one."""
    network = {"name": "n", "family": "resnet1111", **({"pretraining": own} if own else {})}
    pairs = [{"sender": "n", "receiver": "n"}]
    return {"data": {"name": "digits"}, "networks": [network], "pairs": pairs, **sections}
