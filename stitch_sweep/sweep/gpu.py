"""What a process takes of a GPU's memory, and how it is held to its share of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import torch

from stitch_sweep.core.errors import InputError

# What a process needs before it computes: the context, and the kernels and handles of a training step
# and of what is measured after it. All of them are loaded when they are first called.
_CONTEXT = """
import torch
from torch import nn
net = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
).cuda()
net(torch.ones(2, 3, 8, 8, device="cuda")).sum().backward()
square = torch.eye(8, dtype=torch.float64, device="cuda")
for solve in (torch.linalg.eigh, torch.linalg.svd, torch.linalg.qr, torch.linalg.cholesky):
    solve(square @ square.T)
torch.cuda.synchronize()
print(torch.cuda.memory_reserved(), flush=True)
input()
"""


# As CUDA, cuBLAS, cuDNN and cuSOLVER put it.
_NO_MEMORY = ("out of memory", "ALLOC_FAILED", "unable to find an engine", "cusolverDnCreate")
# What torch raises as a plain RuntimeError where not the trial is at fault but what it runs on.
_BROKEN = (
    "CUDA error",
    "CUDA driver error",
    "CUBLAS_STATUS",
    "CUSOLVER_STATUS_EXECUTION",
    "CUSOLVER_STATUS_INTERNAL",
    "CUSOLVER_STATUS_NOT_INIT",
    "CUDNN_STATUS",
    "cuDNN error",
    "NCCL",
    "DefaultCPUAllocator",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU, or the share of it that a process may take, had too little memory."""
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)
    return isinstance(error, torch.OutOfMemoryError) or said


def is_broken_device(error: BaseException) -> bool:
    """Whether what a process computes on has failed: whatever it does from now on may fail too.

    An error of a CUDA kernel stays with the process: every later call raises it again.
    """
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in _BROKEN)
    return isinstance(error, torch.AcceleratorError) or said


def refusals() -> int:
    """How often this process was refused memory of its GPU so far; 0 without one.

    Whoever was refused need not say so: cuDNN then takes another algorithm, which gives other bits.
    """
    return int(torch.cuda.memory_stats().get("num_ooms", 0))


@dataclass(frozen=True)
class Footprint:
    """What one trial takes of a GPU's memory, in bytes.

    Attributes:
        total: the GPU's whole memory.
        context: what a process takes outside of torch's allocator.
        peak: the most that torch's allocator held; 0 where it wasn't measured.
    """

    total: int
    context: int
    peak: int = 0


def hold_to(share: float, context: int) -> None:
    """Let this process allocate no more than its share of the GPU, less its context.

    Args:
        share: of one GPU; nothing is done for 0 and for whole GPUs.
        context: bytes that the process takes outside of torch's allocator.
    """
    if 0 < share < 1:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(allocatable(share, total, context))


def allocatable(share: float, total: int, context: int) -> float:
    """The share of a GPU's memory that torch's allocator may take: (share * total - context) / total.

    Raises:
        InputError: nothing would be left.
    """
    left = share - context / total
    if left <= 0:
        raise InputError(
            f"resources.gpu is {share:g}, which is {gib(share * total)} of this GPU, and a CUDA "
            f"context alone takes {gib(context)}; give trials a larger share"
        )
    return left


def measure_context() -> Footprint:
    """What a process takes before it computes, seen from beside it, three times. Needs a GPU.

    The median of three: another process may come or go during one of them.
    """
    torch.cuda.init()
    torch.zeros(1, device="cuda")  # our own context must be there before
    _, total = torch.cuda.mem_get_info()
    return Footprint(total, max(0, sorted(_one_context() for _ in range(3))[1]))


def _one_context() -> int:
    before, _ = torch.cuda.mem_get_info()
    with subprocess.Popen(
        [sys.executable, "-c", _CONTEXT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        reserved = int(process.stdout.readline())
        after, _ = torch.cuda.mem_get_info()
        process.communicate("\n")
    return before - after - reserved


def gib(size: float) -> str:
    """Bytes as text."""
    return f"{size / 2**30:.2f} GiB"
