"""Experiment folders of one small sweep; the sweep runs once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from stitch_sweep.config.root import Config
from stitch_sweep.measuring.tables import Measured, measure
from stitch_sweep.plan.prepare import prepare
from tests.support.measured_sweep import (
    TREE,
    copied,
    run_here,
)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment folder with its zoo and without tables of `measured/`; read-only."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "zoo").mkdir()
    config = Config.model_validate({**TREE, "zoo": str(folder / "zoo")})
    run_here(prepare(config), folder)
    return folder


@pytest.fixture(scope="session")
def told() -> list[tuple[str, int, int]]:
    """The calls of `on_progress` while `measured` was computed."""
    return []


@pytest.fixture(scope="session")
def measured(
    finished: Path, told: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> Measured:
    """All tables of a copy of the folder."""
    copy = copied(finished, tmp_path_factory.mktemp("measured"))
    return measure(copy, on_progress=lambda *progress: told.append(progress))


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may change."""
    return copied(finished, tmp_path)
