"""SHA-256 of tensors and modules."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 (hex) of named tensors of any shape and type, and of a text."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def fingerprint(module: nn.Module) -> str:
    """Return the SHA-256 (hex) of all parameters and buffers: names, types, shapes and bytes."""
    return digest(tensors_of(module))


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, including buffers that are not in the `state_dict`."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
