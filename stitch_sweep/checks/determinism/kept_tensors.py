"""The first values of every tensor that a recording hashes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from stitch_sweep.checks.inspection import inspect_weights, summarize
from stitch_sweep.storage.digests import tensors_of

KEPT = 65_536
"""Number of values that are kept of each tensor; its hash covers all values."""


class KeptTensors:
    """Collects the first `KEPT` values of tensors by name.

    Attributes:
        tensors: the collected values, flattened, on the CPU.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def keep(self, name: str, tensor: Tensor) -> None:
        """Keep the first values of a tensor."""
        # A clone: a view would keep the whole tensor, and may be overwritten.
        self.tensors[name] = tensor.detach().reshape(-1)[:KEPT].cpu().clone()

    def summarize(self, name: str, tensor: Tensor) -> dict[str, Any]:
        """Keep the first values of a tensor, and return its summary as plain data."""
        self.keep(name, tensor)
        return summarize(tensor).to_dict()

    def summarize_weights(self, name: str, module: nn.Module) -> dict[str, Any]:
        """Keep the first values of every parameter and buffer, and return their summaries.

        Returns:
            By dotted name: `kind` (`parameter` or `buffer`) and the summary.
        """
        buffers = dict(module.named_buffers(remove_duplicate=False))
        for path, tensor in tensors_of(module).items():
            self.keep(f"weights/{name}/{path}", tensor)
        return {
            path: {"kind": "buffer" if path in buffers else "parameter", **summary.to_dict()}
            for path, summary in inspect_weights(module).items()
        }
