"""What a fast frozen network needs of the machine: a compiler, and arithmetic in bfloat16."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.util import find_spec

import torch

from stitch_sweep.config.training import FrozenMode, Precision
from stitch_sweep.core.errors import InputError

_CPU_COMPILERS = ("g++", "clang++")
_GPU_COMPILERS = ("gcc", "clang", "cc")


def check_machine(mode: FrozenMode, precision: Precision, device: str | torch.device) -> None:
    """Check that this machine can run the frozen network as configured.

    Args:
        mode: `training.frozen`.
        precision: `training.precision`.
        device: the device of the training.

    Raises:
        InputError: there is no compiler, or the device has no arithmetic in bfloat16; one sentence each.
    """
    kind = torch.device(device).type
    problems = []
    if mode == "compiled" and (missing := _missing_compiler(kind)):
        problems.append(
            f"training.frozen: compiled needs {missing}, and this machine has none; install one, or "
            "choose fused"
        )
    if precision == "bfloat16" and not has_bfloat16(kind):
        where = "this GPU" if kind == "cuda" else "this CPU"
        problems.append(
            f"training.precision: {where} has no arithmetic in bfloat16. Without it a step takes 2 to 15 "
            "times as long as in float32; choose float32"
        )
    if problems:
        raise InputError(*problems)


def has_bfloat16(kind: str) -> bool:
    """Return whether the devices of a kind, `cpu` or `cuda`, have instructions for bfloat16."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _missing_compiler(kind: str) -> str:
    """Return what torch.compile lacks on this machine; empty if nothing."""
    chosen = [os.environ[name] for name in ("CXX", "CC") if os.environ.get(name)]
    compilers = [*chosen, *(_GPU_COMPILERS if kind == "cuda" else _CPU_COMPILERS)]
    if not any(shutil.which(name) for name in compilers):
        return "a C++ compiler (g++ or clang++)" if kind != "cuda" else "a C compiler (gcc)"
    if kind == "cuda" and find_spec("triton") is None:
        return "the package triton"
    return ""
