"""The memory of a GPU: the memory that a process takes, and the limit of a process's share."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import torch

from stitch_sweep.core.errors import InputError

# Loads everything that a process needs before it computes: the CUDA context, and the kernels and handles
# of a training step and of the measures after it. Each of them is loaded at its first call.
_CONTEXT_PROGRAM = """
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


@dataclass(frozen=True)
class Footprint:
    """The GPU memory of one trial, in bytes.

    Attributes:
        total: the GPU's whole memory.
        context: memory that a process takes outside of torch's allocator.
        peak: maximum of torch's allocator; 0 if it wasn't measured.
    """

    total: int
    context: int
    peak: int = 0


def count_refused_allocations() -> int:
    """Count the allocations on the GPU that this process was refused; 0 without a GPU.

    A refusal need not raise an error: cuDNN chooses another algorithm, which changes the last bits.
    """
    return int(torch.cuda.memory_stats().get("num_ooms", 0))


def limit_memory(share: float, context: int) -> None:
    """Limit torch's allocator in this process to its share of the GPU, minus the process's context.

    Args:
        share: share of a GPU; 0 and whole GPUs have no limit.
        context: bytes that the process takes outside of torch's allocator.
    """
    if 0 < share < 1:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(allocatable(share, total, context))


def allocatable(share: float, total: int, context: int) -> float:
    """Return torch's share of a GPU's memory: (share * total - context) / total.

    Raises:
        InputError: the context takes the whole share.
    """
    remaining = share - context / total
    if remaining <= 0:
        raise InputError(
            f"resources.gpu is {share:g}, which is {format_gib(share * total)} of this GPU, and a CUDA "
            f"context alone takes {format_gib(context)}; give trials a larger share"
        )
    return remaining


def measure_context() -> Footprint:
    """Measure the memory that a process takes before it computes. Needs a GPU.

    Returns:
        The median of three measurements: another process may start or end during one of them.
    """
    torch.cuda.init()
    torch.zeros(1, device="cuda")  # creates this process's own context, before the measurement
    _, total = torch.cuda.mem_get_info()
    return Footprint(total, max(0, sorted(_measure_once() for _ in range(3))[1]))


def _measure_once() -> int:
    before, _ = torch.cuda.mem_get_info()
    with subprocess.Popen(
        [sys.executable, "-c", _CONTEXT_PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        reserved = int(process.stdout.readline())
        after, _ = torch.cuda.mem_get_info()
        process.communicate("\n")
    return before - after - reserved


def format_gib(size: float) -> str:
    """Return a number of bytes as text."""
    return f"{size / 2**30:.2f} GiB"
