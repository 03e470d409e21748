"""Checkpoint files: write the newest, keep the previous one, and choose the one to resume from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from stitch_sweep.storage.files import temporary_path, write_atomically

T = TypeVar("T")


class CheckpointError(Exception):
    """The bytes are not a checkpoint of Stitch Sweep, are incomplete, or have changed."""


class ForeignFileError(CheckpointError):
    """The bytes are a complete safetensors file that another program wrote."""


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint file, as read.

    Attributes:
        path: path of the file.
        data: its bytes; None if they can't be read.
        problem: reason why they can't be read.
    """

    path: Path
    data: bytes | None
    problem: str = ""


def write_checkpoint(path: Path, data: bytes) -> None:
    """Write a checkpoint; the existing one is kept as `<name>.previous`.

    If the process is killed at any moment, all files are complete, and there are at least as many
    complete files as before.

    Raises:
        OSError: the file can't be written; the existing files are unchanged.
    """
    if not path.exists():
        write_atomically(path, data)
        return
    earlier = temporary_path(path)
    try:
        try:
            # Create a second name first, because a rename would leave a moment without a newest
            # checkpoint.
            earlier.hardlink_to(path)
        except OSError:  # a file system without hard links
            write_atomically(earlier, path.read_bytes())
        write_atomically(path, data)
        earlier.replace(_previous(path))
    finally:
        with suppress(OSError):  # the earlier error is reported
            earlier.unlink(missing_ok=True)


def read_checkpoints(path: Path) -> list[CheckpointFile]:
    """Read the checkpoints that `write_checkpoint` wrote, newest first; empty without files."""
    files = []
    for candidate in (path, _previous(path)):
        try:
            if candidate.exists() and not candidate.is_file():  # reading a pipe would never end
                files.append(CheckpointFile(candidate, None, "is not a regular file"))
            else:
                files.append(CheckpointFile(candidate, candidate.read_bytes()))
        except FileNotFoundError:
            continue
        except OSError as error:
            files.append(CheckpointFile(candidate, None, error.strerror or str(error)))
    return files


def remove_checkpoints(path: Path) -> None:
    """Remove the checkpoints that `write_checkpoint` wrote. Folders in their place are kept."""
    for candidate in (path, _previous(path)):
        if not candidate.is_dir():
            candidate.unlink(missing_ok=True)


def resume_newest(
    files: Iterable[CheckpointFile], load: Callable[[bytes], T], fallback: str
) -> tuple[T | None, str | None]:
    """Resume from the newest checkpoint that is complete and fits.

    Args:
        files: checkpoint files, newest first.
        load: returns the result from a checkpoint's bytes, or raises `CheckpointError` without any
            change.
        fallback: description of what is done without a usable checkpoint, such as "the training starts
            again".

    Returns:
        The result of `load`, or None without a usable checkpoint; and a message, or None without
        problems. The message lists each unusable file with its problem, and the checkpoint that is used
        instead.
    """
    problems = []
    for file in files:
        try:
            if file.data is None:
                raise CheckpointError(f"can't be read ({file.problem})")
            result = load(file.data)
        except CheckpointError as error:
            problems.append(f"checkpoint {file.path}: {error}")
            continue
        if problems:
            problems.append(f"the previous checkpoint is used: {file.path}")
        return result, "; ".join(problems) or None
    if problems:
        problems.append(f"there is no previous checkpoint: {fallback}")
    return None, "; ".join(problems) or None


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")
