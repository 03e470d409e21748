"""Errors of a GPU: out of memory, or broken until the process ends."""

from __future__ import annotations

import torch

# Texts of CUDA, cuBLAS, cuDNN and cuSOLVER.
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "unable to find an engine", "cusolverDnCreate")
# Texts of a plain RuntimeError for which the device is at fault, not the trial.
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
    """Return whether a GPU, or a process's share of it, had too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or _mentions(error, _OUT_OF_MEMORY)


def is_broken_device(error: BaseException) -> bool:
    """Return whether the device of a process has failed, so that every later computation may fail.

    A CUDA kernel's error stays with the process: every later call raises it again.
    """
    return isinstance(error, torch.AcceleratorError) or _mentions(error, _BROKEN)


def _mentions(error: BaseException, texts: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
