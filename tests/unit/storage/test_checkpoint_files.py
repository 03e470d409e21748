"""The newest checkpoint and the one before it: writing, reading and resuming."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from stitch_sweep.storage.checkpoint_files import (
    CheckpointError,
    CheckpointFile,
    read_checkpoints,
    remove_checkpoints,
    resume_newest,
    write_checkpoint,
)


def contents(path: Path) -> list[bytes | None]:
    return [found.data for found in read_checkpoints(path)]


@pytest.fixture(params=["hard links", "none"])
def links(request, monkeypatch) -> bool:
    """Whether the file system has hard links."""

    def refuse(*args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if request.param == "none":
        monkeypatch.setattr(os, "link", refuse)
    return request.param != "none"


def test_the_two_newest_are_kept_and_forgotten_together(tmp_path, links):
    path = tmp_path / "new" / "checkpoint"
    assert read_checkpoints(path) == []
    versions = [bytes([k]) for k in range(5)]
    for k, data in enumerate(versions):
        write_checkpoint(path, data)
        assert contents(path) == versions[k::-1][:2]
    assert [found.path.name for found in read_checkpoints(path)] == [
        "checkpoint",
        "checkpoint.previous",
    ]
    assert len(list(path.parent.iterdir())) == 2
    remove_checkpoints(path)
    assert list(path.parent.iterdir()) == []
    remove_checkpoints(path)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_write_leaves_both_as_they_were(tmp_path, monkeypatch, function, links):
    def fail(*args: object) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "checkpoint"
    for data in (b"first", b"second"):
        write_checkpoint(path, data)
    monkeypatch.setattr(Path if function == "replace" else os, function, fail)
    with pytest.raises(OSError, match="no space left"):
        write_checkpoint(path, b"third")
    assert contents(path) == [b"second", b"first"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_in_a_checkpoints_place_is_named_and_left_alone(tmp_path):
    path = tmp_path / "checkpoint"
    for data in (b"first", b"second"):
        write_checkpoint(path, data)
    path.unlink()
    path.mkdir()
    assert read_checkpoints(path)[0] == CheckpointFile(path, None, "is not a regular file")
    assert contents(path) == [None, b"first"]
    remove_checkpoints(path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise CheckpointError("no number") from None


A, B = Path("new"), Path("new.previous")


@pytest.mark.parametrize(
    ("found", "taken", "said"),
    [
        ([], None, None),
        ([CheckpointFile(A, b"2"), CheckpointFile(B, b"1")], 2, None),
        ([CheckpointFile(A, b"2"), CheckpointFile(B, b"x")], 2, None),
        ([CheckpointFile(B, b"1")], 1, None),
        (
            [CheckpointFile(A, b"x"), CheckpointFile(B, b"1")],
            1,
            "checkpoint new: no number; the previous checkpoint is used: new.previous",
        ),
        (
            [CheckpointFile(A, None, "Is a directory")],
            None,
            "checkpoint new: can't be read (Is a directory); "
            "there is no previous checkpoint: start again",
        ),
        (
            [CheckpointFile(A, b""), CheckpointFile(B, b"x")],
            None,
            "checkpoint new: no number; checkpoint new.previous: no number; "
            "there is no previous checkpoint: start again",
        ),
    ],
)
def test_the_newest_whole_one_is_taken_up_and_the_others_named(found, taken, said):
    assert resume_newest(found, number, "start again") == (taken, said)
