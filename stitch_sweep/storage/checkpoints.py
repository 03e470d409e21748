"""Serialization of training states as safetensors with a checksum: no pickle, and damage is noticed.

A state is a tree of dicts, lists, tensors and JSON scalars, such as an optimizer's `state_dict()`. Its
tensors become the tensors of a safetensors file. All other values become one JSON text in the file's
metadata.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from stitch_sweep.storage.checkpoint_files import CheckpointError, ForeignFileError
from stitch_sweep.storage.digests import digest

FORMAT = 1
"""Version of the content of checkpoints. Increase it when a training stores different content."""

# safetensors accepts no header above 100 MB, so no valid file has a header that ends later.
_LARGEST_HEADER_END = 8 + 100_000_000


def pack(state: dict[str, Any]) -> bytes:
    """Serialize a state. `unpack` returns an equal state; equal states give equal bytes.

    Args:
        state: nested dicts (with str or int keys) and lists of tensors, str, int, float, bool, None.
            Tuples become lists.

    Raises:
        TypeError: the tree contains another type.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_extract_tensors(state, "state", tensors))
    data = save_tensors(tensors, metadata={"tree": tree, "sha256": digest(tensors, tree)})
    # safetensors writes the metadata in random order.
    header, rest = _split(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + rest


def unpack(data: bytes) -> dict[str, Any]:
    """Return the state that `pack` serialized, with tensors on the CPU.

    Raises:
        CheckpointError: the bytes are foreign, truncated or changed; the message says which.
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
        state = _insert_tensors(json.loads(metadata["tree"]), tensors)
        if not isinstance(state, dict):
            raise ForeignFileError("foreign: its tree is not one that Stitch Sweep writes")
    except CheckpointError:
        raise
    except Exception as error:  # parsers raise many types of errors for damaged bytes
        raise CheckpointError(_explain(data, error)) from None
    return state


def _explain(data: bytes, error: Exception) -> str:
    """Return the reason why bytes can't be read as safetensors."""
    if not data:
        return "it is empty"
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        header, rest = _split(data)
        missing = max(v["data_offsets"][1] for k, v in header.items() if k != "__metadata__")
        missing -= len(rest)
    except (ValueError, TypeError, LookupError, AttributeError):
        is_header = data[8:9] in (b"{", b"") and end <= _LARGEST_HEADER_END
        missing = end - len(data) if is_header else 0
    if missing > 0:
        return f"truncated: at least {missing} bytes are missing at its end"
    if data[8:9] == b"{":
        return f"not a whole safetensors file, its bytes changed since they were written ({error})"
    return f"foreign: not a whole safetensors file ({error})"


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and tensor bytes of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _extract_tensors(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return `node` as JSON; its tensors are moved into `tensors` and replaced by their names."""
    if isinstance(node, Tensor):
        while path in tensors:  # {"a.b": x} and {"a": {"b": y}}
            path += "'"
        # Clone, because safetensors refuses tensors that share memory.
        tensors[path] = node.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": path}
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, str | int):
                raise TypeError(f"{path}: {key!r} can't be a key in a checkpoint")
        # Pairs, because JSON would turn an optimizer's integer keys into strings.
        pairs = [[k, _extract_tensors(v, f"{path}.{k}", tensors)] for k, v in node.items()]
        return {"pairs": pairs}
    if isinstance(node, list | tuple):
        return [_extract_tensors(v, f"{path}.{i}", tensors) for i, v in enumerate(node)]
    if node is None or isinstance(node, str | int | float):
        return node
    raise TypeError(f"{path}: a {type(node).__name__} can't go into a checkpoint")


def _insert_tensors(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, dict):
        if "tensor" in node:
            return tensors[node["tensor"]]
        return {k: _insert_tensors(v, tensors) for k, v in node["pairs"]}
    if isinstance(node, list):
        return [_insert_tensors(v, tensors) for v in node]
    return node
