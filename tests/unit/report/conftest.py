"""A folder with results that the tests of reports share."""

from __future__ import annotations

import pytest

from tests.support.reports import make_folder


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "sweep", layers=3)
