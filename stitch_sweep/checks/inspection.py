"""What a network is made of and what its layers give: figures and hashes, tensor by tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stitch_sweep.storage.checkpoints import tensors_of


@dataclass(frozen=True)
class Summary:
    """A tensor in a few figures.

    Attributes:
        shape: of the tensor.
        dtype: such as `float32`.
        mean: over its finite values, in float64; None where there are none.
        std: population standard deviation, likewise.
        min: smallest finite value.
        max: largest finite value.
        not_finite: how many values are NaN or infinite.
        sha256: see `sha256_of`.
    """

    shape: tuple[int, ...]
    dtype: str
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    not_finite: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**vars(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class Output:
    """What one module gave in one call.

    Attributes:
        position: which call of the network it was, from 0, in the order in which they ended.
        path: dotted path of the module, with `[k]` after it where it gave several tensors;
            `(output)` for the network's own result.
        type: the module's class.
        mode: `train` or `eval`, as the module was.
        summary: of the tensor.
    """

    position: int
    path: str
    type: str
    mode: str
    summary: Summary


def sha256_of(tensor: Tensor) -> str:
    """SHA-256 (hex) of a tensor's values, row by row, as they lie in memory; not of shape or type."""
    values = tensor.detach().cpu().contiguous()
    # An empty tensor has no bytes to view.
    data = values.reshape(-1).view(torch.uint8).numpy().data if values.numel() else b""
    return hashlib.sha256(data).hexdigest()


def summarise(tensor: Tensor) -> Summary:
    """The figures of a tensor of any shape and real type, on any device.

    They are computed on the CPU in one thread, so equal tensors have equal summaries.

    Example:
        >>> summarise(torch.tensor([[1.0, 3.0]])).mean
        2.0
    """
    # NumPy and not torch, whose sums follow the number of threads.
    values = tensor.detach().cpu().double().reshape(-1).numpy()
    finite = values[abs(values) < float("inf")]
    some = finite.size > 0
    return Summary(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        mean=float(finite.mean()) if some else None,
        std=float(finite.std()) if some else None,
        min=float(finite.min()) if some else None,
        max=float(finite.max()) if some else None,
        not_finite=int(values.size - finite.size),
        sha256=sha256_of(tensor),
    )


def inspect_weights(module: nn.Module) -> dict[str, Summary]:
    """Every parameter and buffer, buffers that are not stored included.

    Args:
        module: on any device.

    Returns:
        Summaries by dotted name: parameters first, each kind in the order of the module.

    Example:
        >>> found = inspect_weights(nn.Conv2d(3, 8, kernel_size=3))
        >>> {name: summary.shape for name, summary in found.items()}
        {'weight': (8, 3, 3, 3), 'bias': (8,)}
    """
    return {name: summarise(tensor) for name, tensor in tensors_of(module).items()}


def inspect_outputs(
    module: nn.Module,
    images: Tensor,
    keep: Callable[[Output, Tensor], None] = lambda output, values: None,
) -> list[Output]:
    """Run a network once and summarise what every layer gave, as it was before anyone changed it.

    A layer is a module that calls no other module; one that runs several times is there several
    times. What is computed between modules (`x + y`, `functional.relu`) shows in the layers after it
    and in the last entry, the network's own result. The mode of the network is left as it is.

    Args:
        module: takes one batch.
        images: `[B, C, H, W]`, or whatever the network takes.
        keep: called with every output and its tensor, of shape `output.summary.shape`; the network
            may overwrite the tensor later.

    Returns:
        One entry per layer and call, in order of execution, and the result last.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> for output in inspect_outputs(network, torch.zeros(5, 1, 2, 2)):
        ...     print(output.position, output.path, output.type, output.summary.shape)
        0 0 Flatten (5, 4)
        1 1 Linear (5, 2)
        2 (output) Sequential (5, 2)
    """
    found: list[Output] = []
    calls: list[bool] = []  # for each module now running: whether it has called another

    def add(path: str, of: nn.Module, result: Any) -> None:
        several = isinstance(result, tuple | list)
        for k, tensor in enumerate(result if several else [result]):
            if isinstance(tensor, Tensor):
                output = Output(
                    len(found),
                    f"{path}[{k}]" if several else path,
                    type(of).__name__,
                    "train" if of.training else "eval",
                    summarise(tensor),
                )
                found.append(output)
                keep(output, tensor.detach())

    def enter(of: nn.Module, inputs: Any) -> None:
        if calls:
            calls[-1] = True
        calls.append(False)

    def leave(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def after(of: nn.Module, inputs: Any, result: Any) -> None:
            if not calls.pop():
                add(path, of, result)

        return after

    handles: list[RemovableHandle] = []
    try:
        for path, part in module.named_modules():
            if part is not module:
                handles.append(part.register_forward_pre_hook(enter))
                handles.append(part.register_forward_hook(leave(path)))
        with torch.no_grad():
            add("(output)", module, module(images))
    finally:
        for handle in handles:
            handle.remove()
    return found
