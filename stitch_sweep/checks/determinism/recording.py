"""A recording of a run's start, and its folder.

The folder is written completely or not at all:

- `batch_info.json`: how images become batches, and the images of the first and last batches
- `model_weights.json`: every parameter and buffer of every network, and of the stitch at its start
- `model_inspection.csv`: the output of every layer for the first batch
- `training.json`: loss, gradients and parameters of the first steps, and an evaluation after them
- `generators.json`: the states of the random number generators
- `environment.json`: versions, device, flags, thread counts, and the limits of determinism
- `tensors.safetensors`: the first values of the hashed tensors
- `recording.json`: format, configuration, and the SHA-256 of each of these files; written last

Equal runs write equal files: no file contains a path, a time or a process id.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.files import write_atomically

FORMAT = 1
"""Version of the files' meaning; increase it when the meaning changes."""

MANIFEST = "recording.json"
COLUMNS = (
    *("network", "position", "layer", "type", "mode", "shape", "dtype"),
    *("mean", "std", "min", "max", "not_finite", "sha256"),
)
"""Columns of `model_inspection.csv`."""

_FILES = {
    "batches": "batch_info.json",
    "weights": "model_weights.json",
    "outputs": "model_inspection.csv",
    "training": "training.json",
    "generators": "generators.json",
    "environment": "environment.json",
    "tensors": "tensors.safetensors",
}


@dataclass(frozen=True)
class Recording:
    """The computations at the start of one run.

    Attributes:
        about: `format`, `pair`, and `configuration`, its settings by dotted path.
        batches: content of `batch_info.json`.
        weights: by network (and `stitch`) and tensor name, summaries as plain data.
        outputs: the rows of `model_inspection.csv`.
        training: content of `training.json`.
        generators: content of `generators.json`.
        environment: content of `environment.json`.
        tensors: the first values of the hashed tensors by name, flattened.
    """

    about: dict[str, Any]
    batches: dict[str, Any]
    weights: dict[str, Any]
    outputs: list[dict[str, str]]
    training: dict[str, Any]
    generators: dict[str, Any]
    environment: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole recording; equal if and only if two recordings agree entirely."""
        return hashlib.sha256(self._manifest(self._contents())).hexdigest()

    def write(self, folder: Path) -> None:
        """Write the recording.

        Args:
            folder: doesn't exist or is empty.

        Raises:
            InputError: the folder is not empty.
        """
        check_free(folder)
        contents = self._contents()
        with _complete_folder(folder) as temporary:
            for name, content in contents.items():
                write_atomically(temporary / name, content)
            write_atomically(temporary / MANIFEST, self._manifest(contents))

    def _manifest(self, contents: Mapping[str, bytes]) -> bytes:
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        return _to_json({**self.about, "files": hashes})

    def _contents(self) -> dict[str, bytes]:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.outputs)
        json_parts = [part for part in _FILES if part not in ("outputs", "tensors")]
        contents = {
            **{part: _to_json(getattr(self, part)) for part in json_parts},
            "outputs": table.getvalue().encode(),
            "tensors": save_tensors(self.tensors),
        }
        return {name: contents[part] for part, name in _FILES.items()}


def read_recording(folder: Path) -> Recording:
    """Read the recording in a folder.

    Raises:
        InputError: the folder has no recording, its format has another version, or a file is missing
            or changed; the message names the file.
    """
    manifest = folder / MANIFEST
    try:
        about = json.loads(manifest.read_bytes())
        version, files = about["format"], about.pop("files")
        if not isinstance(about["configuration"], dict):
            raise TypeError(about["configuration"])
        hashes = {name: str(files[name]) for name in _FILES.values()} if version == FORMAT else {}
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder}: contains no recording; `stitch-sweep determinism record` makes one"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{manifest}: is damaged; record it again") from None
    if version != FORMAT:
        raise InputError(
            f"{manifest}: has format {version!r}, but this version of Stitch Sweep reads "
            f"{FORMAT}; record both again"
        )
    contents: dict[str, Any] = {}
    problems = []
    for part, name in _FILES.items():
        try:
            data = (folder / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != hashes[name]:
                problems.append(
                    f"{folder / name}: has changed since it was recorded; record it again"
                )
            else:
                contents[part] = _parse(name, data)
        except FileNotFoundError:
            problems.append(f"{folder / name}: is missing; record it again")
        except (ValueError, SafetensorError):
            problems.append(f"{folder / name}: is damaged; record it again")
    if problems:
        raise InputError(*problems)
    return Recording(about, **contents)


def check_free(folder: Path) -> None:
    """Check that a recording can be written to a folder.

    Raises:
        InputError: the folder is not empty, or is a file.
    """
    if folder.is_dir():
        if (folder / MANIFEST).exists():
            raise InputError(f"{folder}: already contains a recording; give another folder")
        if any(folder.iterdir()):
            raise InputError(f"{folder}: is not empty; give an empty or a new folder")
    elif folder.exists():
        raise InputError(f"{folder}: is a file; give a new or empty folder")


@contextmanager
def _complete_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` if the block ends without an error."""
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir()
        yield temporary
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _parse(name: str, data: bytes) -> Any:
    if name.endswith(".json"):
        return json.loads(data)
    if name.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    return load_tensors(data)


def _to_json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
