"""Fixtures of the tests of networks in both tiers: files and networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from stitch_sweep.data.images import Data
from stitch_sweep.networks.pretraining import train_network
from stitch_sweep.networks.zoo import Zoo
from tests.support.networks_external import MINE
from tests.support.networks_faulty import NET
from tests.support.networks_zoo import recipe


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A Python file with a user's networks."""
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the file of faulty networks."""
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.fixture(scope="session")
def stored(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained network in a zoo."""
    zoo = Zoo(tmp_path_factory.mktemp("zoo"))
    network_recipe = recipe(digits, {"weights": "random_raw"})
    return zoo.ensure(network_recipe, lambda r, resume: train_network(r, digits, threads=1)).folder
