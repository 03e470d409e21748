"""Atomic writes: files are complete or absent, and temporary files are removed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.zoo import Zoo
from stitch_sweep.storage.files import check_writable, remove_temporaries, write_atomically


def test_a_file_holds_what_was_written_and_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    for data in (b"first", b"", b"second, longer"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_file_has_the_permissions_that_any_new_file_gets(tmp_path):
    write_atomically(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    ours, plain = (stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("ours", "plain"))
    assert ours == plain


def test_a_file_name_as_long_as_the_system_allows_can_be_written(tmp_path):
    write_atomically(tmp_path / ("x" * 255), b"x")


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, function):
    def fail(*args: object) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "file"
    write_atomically(path, b"old")
    for owner in (os, Path):
        if hasattr(owner, function):
            monkeypatch.setattr(owner, function, fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("where", ["/proc/x.json", "/proc/deep/er/x.json"])
def test_what_can_not_be_written_is_known_before(where):
    with pytest.raises(InputError, match=r"--output .* can't be written"):
        check_writable(Path(where), "--output")


def test_what_can_be_written_is_left_alone(tmp_path):
    check_writable(tmp_path / "new" / "folder" / "x.json", "--output")
    assert list(tmp_path.iterdir()) == []


def test_every_temporary_name_that_is_used_is_one_that_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(Path, "unlink", lambda *arguments, **options: None)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"half")
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    remove_temporaries(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_a_files_place_is_named_and_not_its_temporary(tmp_path):
    (tmp_path / "results.parquet").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(tmp_path / "results.parquet", b"x")
    assert caught.value.filename == str(tmp_path / "results.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["results.parquet"]


def test_leftovers_of_a_zoo_are_its_own_alone(tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    for name in (".theirs.tmp", f".{'0' * 16}.tmp"):
        (folder / name).write_text("x")

    recipe = SimpleNamespace(content={}, folder="net")
    progress = SimpleNamespace(checkpoint=None, weights=b"weights", accuracy={})
    Zoo(tmp_path).store(recipe, progress)
    assert sorted(p.name for p in folder.iterdir() if p.suffix == ".tmp") == [".theirs.tmp"]
