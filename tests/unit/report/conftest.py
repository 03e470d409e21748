"""Folders with results that the tests of reports share."""

from __future__ import annotations

import pytest

from tests.support.report_pages import write
from tests.support.reports import make_folder


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "sweep", layers=3)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A folder with all kinds of files, and its report. Tests must not change it."""
    folder = make_folder(tmp_path_factory.mktemp("whole") / "sweep", measured=True, sanity=True,
                         samples=2, layers=3, pairs=(("a", "b"), ("c", "d")))  # fmt: skip
    return folder, write(folder)
