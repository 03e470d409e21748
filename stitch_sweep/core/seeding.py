"""Seeds, random generators and determinism settings. All random numbers of the project come from here.

A seed is derived from the sweep's seed and the names of its purpose. Seeds are never drawn in sequence,
so results do not depend on the order in which seeds are requested.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stitch_sweep.core.generators import capture_generators, restore_generators

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_WORKSPACES = (":4096:8", ":16:8")  # with these, cuBLAS is deterministic
_cuda_came_first = False


def _fix_workspace() -> None:
    global _cuda_came_first
    if _WORKSPACE not in os.environ:
        _cuda_came_first = torch.cuda.is_initialized()
        os.environ[_WORKSPACE] = _WORKSPACES[0]


# This runs on import, because torch reads the variable only once, at the first matrix product on a GPU.
_fix_workspace()


def derive(*parts: object) -> int:
    """Return a 63-bit seed that depends on `parts` only, on every machine and in every process.

    Args:
        parts: values that JSON can represent; their order matters.

    Example:
        >>> derive(0, "order", 3) == derive(0, "order", 3) != derive(0, "order", 4)
        True
    """
    text = json.dumps(parts, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """Return a CPU generator seeded with `derive(*parts)`.

    Random numbers are drawn on the CPU and then moved, so that they are equal on every device.
    """
    return torch.Generator().manual_seed(derive(*parts))


def draw_normal(shape: Sequence[int], seeds: Sequence[tuple[object, ...]]) -> Tensor:
    """Draw standard normal rows, float32 [len(seeds), *shape]; each is a function of its seed."""
    rows = torch.empty(len(seeds), *shape)
    for row, seed in zip(rows, seeds, strict=True):
        torch.randn(shape, generator=generator(*seed), out=row)
    return rows


def seed_everything(seed: int, threads: int) -> None:
    """Seed all generators and make the computations of this process repeatable bit for bit.

    Seeds Python, NumPy and torch (CPU and CUDA); requires deterministic algorithms of torch; disables
    cuDNN's autotuning and all shorter floating-point formats for float32; keeps denormal numbers; sets a
    fixed cuBLAS workspace; and sets the number of intra-op threads, which decides the order of
    floating-point sums. No other code of the project does any of this. `caveats` lists the remaining
    sources of differences.

    Args:
        seed: any non-negative integer.
        threads: intra-op threads of torch; the project always passes `resources.cpu`.
    """
    _fix_workspace()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    torch.use_deterministic_algorithms(True)
    # The project never reads uninitialized memory; filling it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # Change the old settings before the new ones, because torch refuses to read settings that contradict
    # each other.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for operations in _fp32_operations().values():
        operations.fp32_precision = "ieee"
    # A library that was compiled with fast math may have enabled it for the whole process.
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@contextmanager
def restored_afterwards() -> Iterator[None]:
    """Restore at the end of the block what `seed_everything` changes, for a caller's own computations."""
    device = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")
    generators = capture_generators(device)
    threads = torch.get_num_threads()
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    cudnn = torch.backends.cudnn
    flags = (cudnn.benchmark, cudnn.deterministic)
    precisions = {name: part.fp32_precision for name, part in _fp32_operations().items()}
    try:
        yield
    finally:
        for name, part in _fp32_operations().items():
            part.fp32_precision = precisions[name]
        cudnn.benchmark, cudnn.deterministic = flags
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        torch.set_num_threads(threads)
        restore_generators(generators, device)


def settings() -> dict[str, Any]:
    """Return the current settings of this process that influence the bits of results.

    Returns:
        Plain data: `deterministic_algorithms` (`raise`, `warn` or `off`), cuDNN's flags, the
        floating-point precision of each library's operations, `denormals` (`kept` or `flushed`),
        the cuBLAS workspace, `intra_op_threads`, `inter_op_threads`.
    """
    cudnn = torch.backends.cudnn
    if torch.are_deterministic_algorithms_enabled():
        algorithms = "warn" if torch.is_deterministic_algorithms_warn_only_enabled() else "raise"
    else:
        algorithms = "off"
    return {
        "deterministic_algorithms": algorithms,
        "cudnn": {
            "enabled": cudnn.enabled,
            "deterministic": cudnn.deterministic,
            "benchmark": cudnn.benchmark,
        },
        "onednn_enabled": torch.backends.mkldnn.enabled,
        "float32": {name: backend.fp32_precision for name, backend in _fp32_operations().items()},
        "default_type": str(torch.get_default_dtype()),
        "denormals": "kept" if (torch.tensor(1e-40) * 1).item() else "flushed",
        "cublas_workspace": os.environ.get(_WORKSPACE),
        "intra_op_threads": torch.get_num_threads(),
        "inter_op_threads": torch.get_num_interop_threads(),
    }


def processor() -> str:
    """Return the model name of this machine's CPU, and the instruction set that torch uses."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    # Two models may share a name, mostly in virtual machines.
    numbers = [fields[key] for key in ("cpu family", "model", "stepping") if key in fields]
    name = fields.get("model name") or platform.processor() or platform.machine()
    details = [*([" ".join(["family", *numbers])] if numbers else []), _instructions()]
    return f"{name} ({', '.join(details)})"


def caveats(device: str | torch.device) -> list[str]:
    """Return the remaining sources of non-determinism in this process, and settings that were undone.

    Args:
        device: device of the computation.

    Returns:
        Sentences about the current state of this process.
    """
    cuda = torch.device(device).type == "cuda"
    now = settings()
    sentences = []
    if now["deterministic_algorithms"] == "raise":
        sentences.append(
            "An operation without a deterministic implementation on this device raises an error "
            "that names the operation."
        )
    else:
        state = "off" if now["deterministic_algorithms"] == "off" else "only warned about"
        sentences.append(
            f"Deterministic algorithms are {state}: an operation may give different bits in each run."
        )
    shortened = [
        f"{name} {kind}" for name, kind in now["float32"].items() if kind not in ("ieee", "none")
    ]
    if shortened:
        sentences.append(
            f"Some float32 operations use a shorter format internally: {', '.join(shortened)}."
        )
    if now["denormals"] == "flushed":
        sentences.append("Denormal numbers are flushed to 0 in this thread.")
    if cuda:
        sentences += _cuda_caveats(now)
    model = torch.cuda.get_device_name(device) if cuda else processor()
    sentences.append(
        f"Results are equal bit for bit on one model of {'GPU' if cuda else 'CPU'} ({model}), with one "
        f"version of torch ({torch.__version__}) and its libraries; on others the last bits may differ."
    )
    sentences.append(
        f"Results hold for resources.cpu = {now['intra_op_threads']}: another number of threads computes "
        "sums in another order."
    )
    sentences.append(
        "Python fixes the order of sets of strings when it starts (PYTHONHASHSEED). Stitch Sweep does "
        "not depend on this order; your own data set, network, stitch or loss may depend on it."
    )
    return sentences


def _cuda_caveats(now: dict[str, Any]) -> list[str]:
    sentences = []
    workspace = now["cublas_workspace"]
    if workspace not in _WORKSPACES:
        sentences.append(
            f"{_WORKSPACE} is {workspace!r}, not {' or '.join(_WORKSPACES)}: torch refuses matrix "
            "products on the GPU, because they would not be repeatable."
        )
    elif _cuda_came_first:
        sentences.append(
            f"The GPU was in use in this process before {_WORKSPACE} was set. If a matrix product was "
            "computed, torch refuses all further products, because they would not be repeatable. Set the "
            "variable before the process starts, or import stitch_sweep first."
        )
    if now["cudnn"]["benchmark"] or not now["cudnn"]["deterministic"]:
        sentences.append("cuDNN may choose a different algorithm in each process.")
    return sentences


def _fp32_operations() -> dict[str, Any]:
    """Return torch's backends with a setting for float32's internal format; outer backends first."""
    backends: Any = torch.backends
    return {
        "all": backends,
        "cublas matmul": backends.cuda.matmul,
        "cudnn": backends.cudnn,
        "cudnn conv": backends.cudnn.conv,
        "cudnn rnn": backends.cudnn.rnn,
        "onednn": backends.mkldnn,
        "onednn matmul": backends.mkldnn.matmul,
        "onednn conv": backends.mkldnn.conv,
        "onednn rnn": backends.mkldnn.rnn,
    }


def _instructions() -> str:
    return str(torch.backends.cpu.get_cpu_capability())
