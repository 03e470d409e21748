"""States as safetensors with a checksum: nothing is pickled, and damage is noticed.

A state is a tree of dicts, lists, tensors and JSON scalars (an optimizer's `state_dict()`, say). Its
tensors become the tensors of a safetensors file, the rest one JSON text in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn


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
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"not a whole safetensors file ({error})") from None
    metadata = header.get("__metadata__") or {}
    if "tree" not in metadata or "sha256" not in metadata:
        raise ForeignFileError("a safetensors file, but none that Stitch Sweep wrote")
    if digest(tensors, metadata["tree"]) != metadata["sha256"]:
        raise CheckpointError("the checksum doesn't fit: the bytes changed since they were written")
    state: dict[str, Any] = _restore(json.loads(metadata["tree"]), tensors)
    return state


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensor bytes of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


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
