"""Every random number of the project comes from here.

A seed is derived from the sweep's seed and the names of what it is for, never drawn in sequence, so
nothing depends on which process asked first.
"""

from __future__ import annotations

import hashlib
import json
import os
import random

import numpy as np
import torch


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

    Seeds Python, NumPy and torch (CPU and CUDA), asks torch for deterministic algorithms, switches
    cuDNN's autotuning and TF32 off, gives cuBLAS a fixed workspace, and fixes the number of intra-op
    threads, because that number decides the order of floating-point sums.

    Args:
        seed: any non-negative integer.
        threads: intra-op threads of torch, `resources.cpu` throughout the project.

    Note:
        The cuBLAS workspace only takes effect when no CUDA context existed before the first call.
        Bit equality holds for one model of CPU or GPU and one version of torch, not across them.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    torch.use_deterministic_algorithms(True)
    # We never read memory we have not written; filling it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(threads)
