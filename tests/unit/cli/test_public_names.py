"""The public names of the package are importable."""

from __future__ import annotations

from importlib import metadata

import pytest

import stitch_sweep


def test_every_public_name_is_importable():
    missing = [name for name in stitch_sweep.__all__ if not callable(getattr(stitch_sweep, name))]
    assert missing == []
    assert set(stitch_sweep.__all__) == set(stitch_sweep._LOCATIONS)
    assert set(stitch_sweep.__all__) <= set(dir(stitch_sweep))


def test_the_version_is_that_of_the_installed_package():
    assert stitch_sweep.__version__ == metadata.version("stitch-sweep")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'swep'"):
        _ = stitch_sweep.swep
