"""Temporary folders: which folders are removed, and where they are created."""

from __future__ import annotations

import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.storage import scratch


def test_folders_of_others_are_not_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "_bases", lambda **_: [tmp_path])
    for name, content in (
        ("ss-abcdefgh", None),
        ("ss-bcdefghi", b"theirs"),
        ("mine", b"stitch-sweep 1"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").touch()
        if content is not None:
            (tmp_path / name / "owner.lock").write_bytes(content)
    (tmp_path / "ss-linklink").symlink_to(tmp_path / "mine")
    assert scratch.remove_abandoned() == []
    assert len(list(tmp_path.rglob("data"))) == 3


def test_sockets_fit_below_a_long_tmpdir(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with scratch.folder(sockets=True) as folder:
        assert not folder.is_relative_to(long)
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    with scratch.folder() as folder:
        assert folder.parent == long


def test_a_ray_tmpdir_that_does_not_fit_is_named(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with (
        pytest.raises(InputError, match=f"{long} .*; set RAY_TMPDIR"),
        scratch.folder(sockets=True),
    ):
        pass
    assert list(long.iterdir()) == []
