"""Recipes: everything that determines weights changes the hash."""

from __future__ import annotations

import dataclasses

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
