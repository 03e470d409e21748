"""Statistics and hashes of a network's tensors and of its layers' outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stitch_sweep.storage.digests import tensors_of


@dataclass(frozen=True)
class TensorSummary:
    """Statistics of a tensor.

    Attributes:
        shape: shape of the tensor.
        dtype: such as `float32`.
        mean: mean of the finite values, in float64; None if there are none.
        std: population standard deviation of the finite values; None if there are none.
        min: smallest finite value.
        max: largest finite value.
        not_finite: number of values that are NaN or infinite.
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
        """Return the attributes as plain data."""
        return {**vars(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class LayerOutput:
    """The output of one module in one call.

    Attributes:
        position: number of the call within the pass, from 0, in the order in which calls end.
        path: dotted path of the module, followed by `[k]` where it returned several tensors;
            `(output)` for the output of the whole network.
        type: the module's class.
        mode: `train` or `eval`.
        summary: statistics of the tensor.
    """

    position: int
    path: str
    type: str
    mode: str
    summary: TensorSummary


def sha256_of(tensor: Tensor) -> str:
    """Return the SHA-256 (hex) of a tensor's values in row-major order, without shape and type."""
    values = tensor.detach().cpu().contiguous()
    # An empty tensor has no bytes to view.
    data = values.reshape(-1).view(torch.uint8).numpy().data if values.numel() else b""
    return hashlib.sha256(data).hexdigest()


def summarize(tensor: Tensor) -> TensorSummary:
    """Compute the statistics of a tensor of any shape and real type, on any device.

    The computation runs on the CPU in one thread, so equal tensors have equal summaries.

    Example:
        >>> summarize(torch.tensor([[1.0, 3.0]])).mean
        2.0
    """
    # NumPy and not torch, whose sums depend on the number of threads.
    values = tensor.detach().cpu().double().reshape(-1).numpy()
    finite = values[abs(values) < float("inf")]
    has_finite = finite.size > 0
    return TensorSummary(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        mean=float(finite.mean()) if has_finite else None,
        std=float(finite.std()) if has_finite else None,
        min=float(finite.min()) if has_finite else None,
        max=float(finite.max()) if has_finite else None,
        not_finite=int(values.size - finite.size),
        sha256=sha256_of(tensor),
    )


def inspect_weights(module: nn.Module) -> dict[str, TensorSummary]:
    """Summarize every parameter and buffer, including buffers that a state dict leaves out.

    Args:
        module: on any device.

    Returns:
        Summaries by dotted name: parameters first, then buffers, each in the order of the module.

    Example:
        >>> summaries = inspect_weights(nn.Conv2d(3, 8, kernel_size=3))
        >>> {name: summary.shape for name, summary in summaries.items()}
        {'weight': (8, 3, 3, 3), 'bias': (8,)}
    """
    return {name: summarize(tensor) for name, tensor in tensors_of(module).items()}


def inspect_outputs(
    module: nn.Module,
    images: Tensor,
    keep: Callable[[LayerOutput, Tensor], None] = lambda output, values: None,
) -> list[LayerOutput]:
    """Run a network once and summarize the output of every layer.

    A layer is a module that calls no other module; a layer that runs several times has several entries.
    An output is summarized as soon as its layer returns, before later layers can overwrite it.
    Computations between modules (`x + y`, `functional.relu`) affect the outputs of later layers and the
    last entry, which is the network's own output. The network keeps its mode.

    Args:
        module: takes one batch.
        images: `[B, C, H, W]`, or any other input of the network.
        keep: called with every output and its tensor, which has the shape `output.summary.shape`; the
            network may overwrite the tensor later.

    Returns:
        One entry per layer and call in order of execution, then the network's output.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> for output in inspect_outputs(network, torch.zeros(5, 1, 2, 2)):
        ...     print(output.position, output.path, output.type, output.summary.shape)
        0 0 Flatten (5, 4)
        1 1 Linear (5, 2)
        2 (output) Sequential (5, 2)
    """
    outputs: list[LayerOutput] = []
    calls: list[bool] = []  # for each running module: whether it has called another one

    def record_output(path: str, part: nn.Module, result: Any) -> None:
        several = isinstance(result, tuple | list)
        for k, tensor in enumerate(result if several else [result]):
            if isinstance(tensor, Tensor):
                output = LayerOutput(
                    len(outputs),
                    f"{path}[{k}]" if several else path,
                    type(part).__name__,
                    "train" if part.training else "eval",
                    summarize(tensor),
                )
                outputs.append(output)
                keep(output, tensor.detach())

    def enter(part: nn.Module, inputs: Any) -> None:
        if calls:
            calls[-1] = True
        calls.append(False)

    def make_exit_hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def leave(part: nn.Module, inputs: Any, result: Any) -> None:
            if not calls.pop():
                record_output(path, part, result)

        return leave

    handles: list[RemovableHandle] = []
    try:
        for path, part in module.named_modules():
            if part is not module:
                handles.append(part.register_forward_pre_hook(enter))
                handles.append(part.register_forward_hook(make_exit_hook(path)))
        with torch.no_grad():
            record_output("(output)", module, module(images))
    finally:
        for handle in handles:
            handle.remove()
    return outputs
