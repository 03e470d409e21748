"""Read a state dict from a file, and explain why a file has no state dict."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.storage.checkpoint_files import CheckpointError, ForeignFileError
from stitch_sweep.storage.checkpoints import unpack

_PICKLED = b"\x80"  # first byte of a pickle
_ZIP = b"PK\x03\x04"


def load_weights(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the state dict in a file of the zoo, a plain safetensors file, or a PyTorch file.

    A PyTorch file is read with `weights_only`: code in it is never run.

    Args:
        path: the file.
        key: key of the state dict in a PyTorch file's mapping; by default `state_dict` if the mapping has
            that key, else the file's whole content.

    Raises:
        InputError: the file is missing or contains no weights.
    """
    state, mapping_keys = read_mapping(path, key)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(explain_no_state_dict(path, mapping_keys))
    return state


def read_mapping(path: Path, key: str | None) -> tuple[dict[str, Any], list[str]]:
    """Read the mapping in a file that should be a state dict; its values need not be tensors.

    Args:
        path: see `load_weights`.
        key: see `load_weights`.

    Returns:
        The mapping, empty without a mapping; and the keys of a PyTorch file whose values are mappings.

    Raises:
        InputError: the file is missing or unreadable, or has no such key.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such weights file")
    if not path.stat().st_size:
        raise InputError(f"{path}: is empty")
    try:
        if path.suffix == ".safetensors":
            data = path.read_bytes()
            try:
                return dict(unpack(data)["model"]), []
            except ForeignFileError:
                return load_file(path), []
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        raise InputError(f"{path}: contains no weights: {error}") from None
    except KeyError:
        raise InputError(f"{path}: contains no network") from None
    except Exception as error:  # torch.load raises any exception of its parser
        raise InputError(f"{path}: {_explain_unreadable(path, error)}") from None
    return _select_mapping(path, content, key)


def explain_no_state_dict(path: Path, mapping_keys: list[str]) -> str:
    """Return the message for a file without a state dict.

    Args:
        path: the file.
        mapping_keys: keys under which the file has mappings.
    """
    hint = f"; set weights_key to one of: {', '.join(mapping_keys)}" if mapping_keys else ""
    return f"{path}: contains no state dict (a mapping from names to tensors){hint}"


def _select_mapping(path: Path, content: Any, key: str | None) -> tuple[dict[str, Any], list[str]]:
    if not isinstance(content, Mapping):
        return {}, []
    if key is not None and key not in content:
        raise InputError(f"{path}: has no {key!r}: {nearest(key, map(str, content))}")
    mapping_keys = [str(k) for k, value in content.items() if isinstance(value, Mapping)]
    chosen = content[key] if key is not None else content.get("state_dict", content)
    if not isinstance(chosen, Mapping):
        return {}, mapping_keys
    return {str(name): value for name, value in chosen.items()}, mapping_keys


def _explain_unreadable(path: Path, error: Exception) -> str:
    """Explain why torch.load refuses a file."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == _ZIP and not zipfile.is_zipfile(path):
        return (
            "is truncated: it begins as a PyTorch file, and its end is missing; copy or download it "
            "again"
        )
    if start == _ZIP:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
        if "constants.pkl" in names:
            return (
                "is a TorchScript archive, which contains code; store the network's state_dict() "
                "instead: "
                "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
            )
        if "data.pkl" not in names:
            return "is a zip archive that torch.save didn't write; give a file with a state dict"
    if start[:1] == _PICKLED and type(error).__name__ != "UnpicklingError":
        return f"is truncated or damaged ({_first_line(error)}); copy or download it again"
    if type(error).__name__ != "UnpicklingError":
        return f"can't be read as PyTorch weights ({_first_line(error)})"
    # Torch's message explains how to run the code, so it is not shown.
    code = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error))
    if code is None and start[:1] != _PICKLED and start != _ZIP:
        return "can't be read as PyTorch weights: it is another kind of file"
    name = f" ({code[1]})" if code else ""
    return f"contains code or a whole module{name}, which is not run; store its state_dict() alone"


def _first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
