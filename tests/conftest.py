"""Fixtures and settings of all tests."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings
from torch import nn
from torch.nn import functional

from stitch_sweep.config.data import DataConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import seed_everything
from stitch_sweep.data.images import Data
from stitch_sweep.data.loader import Loader
from stitch_sweep.data.loading import load
from stitch_sweep.networks.families.building import build
from tests.support.digits import DIGITS, TINY

# The profile "ci" has fixed examples and no deadlines, which a busy machine would miss.
settings.load_profile("ci")

TESTS = Path(__file__).parent

SLOW_FILES = (
    "process/sweep/test_sweep.py",
    "process/test_study.py",
    "process/guides/test_guides.py",
    "process/sweep/test_ends.py",
    "process/test_portability.py",
    "process/test_wheel.py",
    "process/api/test_sweeps.py",
    "process/api/test_notebooks.py",
    "cluster/test_faults.py",
    "process/sweep/test_gpu.py",
    "cluster/test_launching.py",
    "process/checks/test_sanity_suite.py",
    "process/training/test_resumed_checkpoints.py",
    "process/sweep/test_knock_out_sweep.py",
    "process/networks/test_traced.py",
    "process/networks/test_vocabulary.py",
    "process/sweep/test_node_shelf.py",
    "process/checks/test_sanity_cells.py",
    "process/checks/test_planted_faults.py",
    "process/data/test_ffcv.py",
    "process/test_import_cost.py",
    "unit/measuring/test_tables.py",
    "unit/training/test_training.py",
    "unit/stitches/test_starts.py",
    "unit/stitches/test_stitches.py",
    "unit/checks/determinism/test_comparison.py",
    "unit/sweep/test_searcher.py",
    "unit/networks/test_families.py",
)
"""The files that take longest in each folder of tests, slowest first. One that started last would run
alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move slow files to the front; the Makefile keeps pytest-xdist from reordering them."""
    place = {TESTS / name: k for k, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def digits() -> Data:
    """A few hundred handwritten digits, 16 x 16 pixels."""
    return load(DataConfig.model_validate(DIGITS))


@pytest.fixture(scope="session")
def trained(digits: Data) -> dict[str, nn.Module]:
    """Two tiny ResNets, `a` and `b`, trained for six epochs in a plain loop."""
    networks = {}
    for seed, name in enumerate("ab"):
        seed_everything(seed, threads=1)
        network = build("resnet", 1, 10, TINY)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        loader = Loader(digits.train, digits.mean, digits.std, batch_size=32, seed=seed)
        for epoch in range(6):
            for batch in loader.batches(epoch):
                optimizer.zero_grad()
                functional.cross_entropy(network(batch.images), batch.labels).backward()
                optimizer.step()
        networks[name] = network.eval().requires_grad_(False)
    return networks


@pytest.fixture
def a(trained: dict[str, nn.Module]) -> nn.Module:
    """A copy of network `a`, which the test may change."""
    return copy.deepcopy(trained["a"])


@pytest.fixture
def b(trained: dict[str, nn.Module]) -> nn.Module:
    """A copy of network `b`, which the test may change."""
    return copy.deepcopy(trained["b"])


@pytest.fixture(scope="session")
def ffcv() -> ModuleType:
    """The module that imports FFCV. Tests are skipped without it, unless CI requires it."""
    try:
        from stitch_sweep.data import ffcv_loader
    except InputError as error:
        if os.environ.get("STITCH_SWEEP_REQUIRE_FFCV"):
            raise
        pytest.skip(str(error))
    return ffcv_loader
