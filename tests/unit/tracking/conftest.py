"""Fixtures of the tests of tracking."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tracking import no_tracking_settings  # noqa: F401  (a fixture)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "experiment"


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket/copy"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "bucket" / "copy"
