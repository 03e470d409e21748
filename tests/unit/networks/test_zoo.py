"""The zoo: networks are trained once, stored completely, and loaded again."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch

from stitch_sweep.core.errors import InputError
from stitch_sweep.data.loader import Loader
from stitch_sweep.networks.evaluation import evaluate
from stitch_sweep.networks.pretraining import Progress, train_network
from stitch_sweep.networks.recipes import Recipe
from stitch_sweep.networks.zoo import Zoo, load
from tests.support.networks_zoo import (
    broken,
    recipe,
)


def test_the_stored_accuracy_is_that_of_the_stored_network(digits, tmp_path):
    network_recipe = recipe(digits)
    zoo = Zoo(tmp_path)
    entry = zoo.ensure(
        network_recipe, lambda r, resume: train_network(r, digits, threads=1, resume=resume)
    )
    network = load(entry.folder)
    assert not any(part.training for part in network.modules())
    for split, accuracy in entry.accuracy.items():
        loader = Loader(getattr(digits, split), digits.mean, digits.std, batch_size=9, seed=0)
        assert evaluate(network, loader).accuracy == accuracy
    assert entry.recipe == network_recipe.content
    assert [e.folder for e in zoo.entries()] == [entry.folder]
    assert entry.folder.name.endswith(network_recipe.hash)
    assert sorted(p.name for p in entry.folder.iterdir()) == ["recipe.json", "weights.safetensors"]


def test_a_network_that_is_there_is_not_trained(digits, tmp_path):
    zoo, network_recipe = Zoo(tmp_path), recipe(digits, {"weights": "random_raw"})
    calls = []

    def start(network_recipe: Recipe, resume: bytes | None) -> Iterator[Progress]:
        calls.append(resume)
        return train_network(network_recipe, digits, threads=1)

    entries = [zoo.ensure(network_recipe, start) for _ in range(3)]
    assert calls == [None]
    assert entries[0] == entries[1] == entries[2]


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors"])
@pytest.mark.parametrize("data", [None, b"", b"{}", b"garbage"])
def test_a_damaged_folder_is_an_input_error(stored, tmp_path, name, data):
    folder = broken(stored, tmp_path, name, data)
    with pytest.raises(InputError, match=str(folder)):
        load(folder)


def test_a_loaded_network_is_apart_from_the_stored_one(stored):
    first = load(stored)
    expected = copy.deepcopy(first.state_dict())
    with torch.no_grad():
        first.fc.weight.zero_()
    assert torch.equal(load(stored).fc.weight, expected["fc.weight"])
