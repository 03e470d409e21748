"""Every random number of the project comes from here.

A seed is derived from the sweep's seed and the names of what it is for, never drawn in sequence, so
nothing depends on which process asked first.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_WORKSPACES = (":4096:8", ":16:8")  # those with which cuBLAS repeats itself
_cuda_came_first = False


def _fix_workspace() -> None:
    global _cuda_came_first
    if _WORKSPACE not in os.environ:
        _cuda_came_first = torch.cuda.is_initialized()
        os.environ[_WORKSPACE] = _WORKSPACES[0]


# Now, because torch asks for it once, at the first matrix product that a process computes on a GPU.
_fix_workspace()


def derive(*parts: object) -> int:
    """A 63-bit seed that is a function of `parts` alone, on every machine and in every process.

    Args:
        parts: anything JSON can hold; the order counts.

    Example:
        >>> derive(0, "order", 3) == derive(0, "order", 3) != derive(0, "order", 4)
        True
    """
    text = json.dumps(parts, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded with `derive(*parts)`.

    Random numbers are drawn on the CPU and moved, so that they are the same on every device.
    """
    return torch.Generator().manual_seed(derive(*parts))


def seed_everything(seed: int, threads: int) -> None:
    """Put this process into the state in which a computation repeats bit for bit.

    The one place of the project that does so. Seeds Python, NumPy and torch (CPU and CUDA), asks
    torch for deterministic algorithms, switches cuDNN's autotuning and all short cuts through
    shorter floating-point formats off, keeps denormal numbers, gives cuBLAS a fixed workspace, and
    fixes the number of intra-op threads, because that number decides the order of floating-point
    sums. What it can't do anything about, `caveats` says.

    Args:
        seed: any non-negative integer.
        threads: intra-op threads of torch, `resources.cpu` throughout the project.
    """
    _fix_workspace()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    torch.use_deterministic_algorithms(True)
    # We never read memory we have not written; filling it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # The old switches and then the new: torch refuses to read one that contradicts the other.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for operations in _fp32_operations().values():
        operations.fp32_precision = "ieee"
    # A library built for speed may have set it for the whole process when it was imported.
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


def settings() -> dict[str, Any]:
    """What of this process decides the bits of a computation, as it is now and not as it was set.

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
        "float32": {name: of.fp32_precision for name, of in _fp32_operations().items()},
        "default_type": str(torch.get_default_dtype()),
        "denormals": "kept" if (torch.tensor(1e-40) * 1).item() else "flushed",
        "cublas_workspace": os.environ.get(_WORKSPACE),
        "intra_op_threads": torch.get_num_threads(),
        "inter_op_threads": torch.get_num_interop_threads(),
    }


def processor() -> str:
    """The model of this machine's CPU, as its maker calls it, and the instructions torch uses."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    # Two models may share a name, above all in a virtual machine.
    numbers = [found[key] for key in ("cpu family", "model", "stepping") if key in found]
    name = found.get("model name") or platform.processor() or platform.machine()
    details = [*([" ".join(["family", *numbers])] if numbers else []), _instructions()]
    return f"{name} ({', '.join(details)})"


def caveats(device: str | torch.device) -> list[str]:
    """What `seed_everything` could not make deterministic, or what was undone after it.

    Args:
        device: where is computed.

    Returns:
        Sentences, each true of this process as it is now.
    """
    cuda = torch.device(device).type == "cuda"
    now = settings()
    found = []
    if now["deterministic_algorithms"] == "raise":
        found.append(
            "An operation without a deterministic implementation on this device raises an error "
            "that names it; nothing replaces it."
        )
    else:
        state = "off" if now["deterministic_algorithms"] == "off" else "only warned about"
        found.append(
            f"Deterministic algorithms are {state}: an operation may give other bits every time."
        )
    shortened = [
        f"{name} {kind}" for name, kind in now["float32"].items() if kind not in ("ieee", "none")
    ]
    if shortened:
        found.append(f"float32 is not computed as such everywhere: {', '.join(shortened)}.")
    if now["denormals"] == "flushed":
        found.append("Denormal numbers are flushed to 0 in this thread.")
    if cuda:
        found += _cuda_caveats(now)
    model = torch.cuda.get_device_name(device) if cuda else processor()
    found.append(
        f"Bits are equal on one model of {'GPU' if cuda else 'CPU'} ({model}), with one version of "
        f"torch ({torch.__version__}) and of its libraries; elsewhere the last ones may differ."
    )
    found.append(
        f"They hold for resources.cpu = {now['intra_op_threads']}: another number of threads takes "
        "sums in another order."
    )
    found.append(
        "The order of a Python set of texts is fixed before any of our code runs (PYTHONHASHSEED). "
        "Nothing here depends on it; a data set, network, stitch or loss of your own might."
    )
    return found


def _cuda_caveats(now: dict[str, Any]) -> list[str]:
    found = []
    workspace = now["cublas_workspace"]
    if workspace not in _WORKSPACES:
        found.append(
            f"{_WORKSPACE} is {workspace!r}, not {' or '.join(_WORKSPACES)}: torch refuses matrix "
            "products on the GPU, since they would not repeat."
        )
    elif _cuda_came_first:
        found.append(
            f"The GPU was in use in this process before {_WORKSPACE} was set: if a matrix product was "
            "among it, torch refuses all further ones, since they would not repeat. Set it before the "
            "process starts, or import stitch_sweep first."
        )
    if now["cudnn"]["benchmark"] or not now["cudnn"]["deterministic"]:
        found.append("cuDNN may choose another algorithm in every process.")
    return found


def _fp32_operations() -> dict[str, Any]:
    """Where torch decides by which format float32 is computed, by name; the outer ones first."""
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
