"""States as safetensors with a checksum: nothing is pickled, and damage is noticed.

A state is a tree of dicts, lists, tensors and JSON scalars (an optimizer's `state_dict()`, say). Its
tensors become the tensors of a safetensors file, the rest one JSON text in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from stitch_sweep.storage.files import Kept

T = TypeVar("T")

FORMAT = 1
"""Raised when a training stores something else than before; an older checkpoint doesn't fit then."""

# safetensors reads no header above 100 MB: an end beyond it was never written.
_LARGEST = 8 + 100_000_000


class CheckpointError(Exception):
    """The bytes are no checkpoint of ours, or not all of it, or not as they were written."""


class ForeignFileError(CheckpointError):
    """A whole safetensors file, but one that another program wrote."""


def pack(state: dict[str, Any]) -> bytes:
    """Serialise a state; `unpack` gives an equal one back, and equal states give equal bytes.

    Args:
        state: nested dicts (with str or int keys) and lists over tensors, str, int, float, bool, None.
            Tuples come back as lists.

    Raises:
        TypeError: something else is in the tree.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_strip(state, "state", tensors))
    data = save_tensors(tensors, metadata={"tree": tree, "sha256": digest(tensors, tree)})
    # safetensors writes the metadata in random order.
    header, rest = _split(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + rest


def unpack(data: bytes) -> dict[str, Any]:
    """The state that `pack` serialised, its tensors on the CPU.

    Raises:
        CheckpointError: foreign, truncated or altered bytes; the message says which.
    """
    try:
        tensors = load_tensors(data)
        header, _ = _split(data)
        metadata = header.get("__metadata__") or {}
        if "tree" not in metadata or "sha256" not in metadata:
            raise ForeignFileError("foreign: a safetensors file that Stitch Sweep didn't write")
        if digest(tensors, metadata["tree"]) != metadata["sha256"]:
            raise CheckpointError(
                "its checksum doesn't fit: the bytes changed since they were written"
            )
        state = _restore(json.loads(metadata["tree"]), tensors)
        if not isinstance(state, dict):
            raise ForeignFileError("foreign: its tree is not one that Stitch Sweep writes")
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes make a parser stumble over anything
        raise CheckpointError(_fault(data, error)) from None
    return state


def _fault(data: bytes, error: Exception) -> str:
    """What is wrong with bytes that can't be read as safetensors."""
    if not data:
        return "it is empty"
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        header, rest = _split(data)
        missing = max(v["data_offsets"][1] for k, v in header.items() if k != "__metadata__")
        missing -= len(rest)
    except (ValueError, TypeError, LookupError, AttributeError):
        missing = end - len(data) if data[8:9] in (b"{", b"") and end <= _LARGEST else 0
    if missing > 0:
        return f"truncated: at least {missing} bytes are missing at its end"
    if data[8:9] == b"{":
        return f"not a whole safetensors file, its bytes changed since they were written ({error})"
    return f"foreign: not a whole safetensors file ({error})"


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensor bytes of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def take_up(
    found: Iterable[Kept], take: Callable[[bytes], T], beginning: str
) -> tuple[T | None, str | None]:
    """Go on from the newest checkpoint that is whole and fits.

    Args:
        found: what is kept, the newest first.
        take: makes something of a checkpoint's bytes, or raises `CheckpointError` and changes nothing.
        beginning: what is done where none is whole, as in "the training starts again".

    Returns:
        What `take` made, or None where there is nothing to go on from; and what to tell the user: each
        file that is not used, what is wrong with it, what is used instead. None if all is well.
    """
    problems = []
    for kept in found:
        try:
            if kept.data is None:
                raise CheckpointError(f"can't be read ({kept.problem})")
            taken = take(kept.data)
        except CheckpointError as error:
            problems.append(f"checkpoint {kept.path}: {error}")
            continue
        if problems:
            problems.append(f"the one before it is used: {kept.path}")
        return taken, "; ".join(problems) or None
    if problems:
        problems.append(f"there is none before it: {beginning}")
    return None, "; ".join(problems) or None


def generators(device: torch.device) -> dict[str, Any]:
    """The state of every random generator that a training on `device` can touch."""
    version, internal, gauss = random.getstate()
    drawn: dict[str, Any] = dict(np.random.get_state(legacy=False))
    drawn["state"] = {**drawn["state"], "key": torch.from_numpy(drawn["state"]["key"])}
    state = {
        "torch": torch.get_rng_state(),
        "python": [version, torch.tensor(internal), gauss],
        "numpy": drawn,
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_generators(state: Mapping[str, Any], device: torch.device) -> None:
    """Put all generators where they were when `generators` was called, on a device of the same kind."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    drawn = state["numpy"]
    np.random.set_state(
        {**drawn, "state": {**drawn["state"], "key": drawn["state"]["key"].numpy()}}
    )
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 (hex) over named tensors of any shape and type, and a text."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def fingerprint(module: nn.Module) -> str:
    """SHA-256 (hex) over every parameter and buffer of `module`: names, types, shapes and bytes."""
    return digest(tensors_of(module))


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, buffers that `state_dict` leaves out included."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _strip(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`node` as JSON, its tensors moved into `tensors` and replaced by their names."""
    if isinstance(node, Tensor):
        while path in tensors:  # {"a.b": x} and {"a": {"b": y}}
            path += "'"
        # A clone: safetensors refuses tensors that share memory, and one may be part of a larger one.
        tensors[path] = node.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": path}
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, str | int):
                raise TypeError(f"{path}: {key!r} can't be a key in a checkpoint")
        # Pairs, because JSON would turn an optimizer's integer keys into texts.
        return {"pairs": [[k, _strip(v, f"{path}.{k}", tensors)] for k, v in node.items()]}
    if isinstance(node, list | tuple):
        return [_strip(v, f"{path}.{i}", tensors) for i, v in enumerate(node)]
    if node is None or isinstance(node, str | int | float):
        return node
    raise TypeError(f"{path}: a {type(node).__name__} can't go into a checkpoint")


def _restore(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, dict):
        if "tensor" in node:
            return tensors[node["tensor"]]
        return {k: _restore(v, tensors) for k, v in node["pairs"]}
    if isinstance(node, list):
        return [_restore(v, tensors) for v in node]
    return node
