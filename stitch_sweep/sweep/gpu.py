"""What a process takes of a GPU's memory, and how it is held to its share of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import torch

from stitch_sweep.errors import InputError

# What a process needs before it computes: the context, and the kernels and handles of a training step.
_CONTEXT = """
import torch
from torch import nn
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4)).cuda()
net(torch.ones(2, 3, 8, 8, device="cuda")).sum().backward()
torch.cuda.synchronize()
print(torch.cuda.memory_reserved(), flush=True)
input()
"""


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
    """What a process takes before it computes, seen from beside it. Needs a GPU."""
    torch.cuda.init()
    torch.zeros(1, device="cuda")  # our own context must be there before
    before, total = torch.cuda.mem_get_info()
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
    # Another process may have come or gone meanwhile; no context is larger than a tenth of a GPU.
    return Footprint(total, min(max(before - after - reserved, 0), total // 10))


def gib(size: float) -> str:
    """Bytes as text."""
    return f"{size / 2**30:.2f} GiB"
