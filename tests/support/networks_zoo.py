"""Recipes and short trainings of a tiny network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stitch_sweep.config.data import DataConfig
from stitch_sweep.config.root import Config
from stitch_sweep.data.images import Data
from stitch_sweep.data.loading import load as load_data
from stitch_sweep.networks.pretraining import Progress, train_network
from stitch_sweep.networks.recipes import Recipe, make_recipe
from stitch_sweep.networks.zoo import Zoo
from stitch_sweep.storage.checkpoints import unpack
from tests.support.digits import DIGITS

NETWORK = {"name": "n", "family": "resnet1111", "width": 2}


def config(network: dict | None = None, **sections: Any) -> Config:
    """Return a configuration of the tiny network, with changes."""
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
    """Return the recipe of the tiny network, with changes."""
    chosen = config(network, **sections)
    return make_recipe(chosen.networks[0], chosen, data)


def train(network_recipe: Recipe, data: Data, **options: Any) -> list[Progress]:
    """Train a network and return all of its progress."""
    return list(train_network(network_recipe, data, threads=1, **options))


def weights(progress: Progress) -> dict[str, torch.Tensor]:
    """Unpack the weights of the last progress."""
    assert progress.weights is not None
    return unpack(progress.weights)["model"]


def work(folder: Path) -> None:
    """Ask the zoo in `folder` for a network, and print every epoch; runs in a process of its own."""
    data = load_data(DataConfig.model_validate(DIGITS))
    network_recipe = recipe(data)

    def start(network_recipe: Recipe, resume: bytes | None) -> Iterator[Progress]:
        print("training", "anew" if resume is None else "on", flush=True)
        return train_network(network_recipe, data, threads=1, resume=resume, checkpoint_seconds=0)

    print("ready", flush=True)
    sys.stdin.readline()
    entry = Zoo(folder).ensure(
        network_recipe, start, lambda _, p: print("epoch", p.epoch, flush=True)
    )
    print("folder", entry.folder, flush=True)


def network_config(path: Path, **changes: Any):
    """Return the configured tiny network with weights from a file."""
    return config({"weights": str(path), **changes}).networks[0]


def broken(folder: Path, tmp_path: Path, name: str, data: bytes | None) -> Path:
    """Copy a network's folder, with one file replaced, or removed for None."""
    copied = tmp_path / folder.name
    copied.mkdir()
    for path in folder.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    (copied / name).unlink()
    if data is not None:
        (copied / name).write_bytes(data)
    return copied
