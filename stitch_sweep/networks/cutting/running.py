"""Run a network to measure it: eval mode, a black image, and counts of operations and parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stitch_sweep.networks.cutting.modules import network_type_name
from stitch_sweep.networks.cutting.points import CutError


def black_image(model: nn.Module, image_shape: Sequence[int]) -> torch.Tensor:
    """Return one black image, [1, C, H, W], with the dtype and device of the model's parameters."""
    example = next(model.parameters(), torch.zeros(()))
    return torch.zeros(1, *image_shape, dtype=example.dtype, device=example.device)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module of `model` into eval mode, and restore each module's previous mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def raise_cut_errors(model: nn.Module, image_shape: Sequence[int]) -> Iterator[None]:
    """Convert every exception that a network raises for an image into an input error.

    Raises:
        CutError: the network raised an exception.
    """
    try:
        yield
    except CutError:
        raise
    except Exception as error:  # a user's network may raise anything
        reason = str(error).strip().partition("\n")[0]
        raise CutError(
            f"{network_type_name(model)} can't take an image of shape {tuple(image_shape)}: {reason}"
        ) from error


@contextmanager
def count_operations() -> Iterator[FlopCounterMode]:
    """Count operations, without gradients.

    In this block, attention's fast path is disabled, because its operations can't be counted.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            _keep_compiler_unloaded(counter)
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _keep_compiler_unloaded(counter: FlopCounterMode) -> None:
    """Keep a counter from importing torch's compiler, which takes as long as importing torch.

    Torch wraps the counter's method so that the compiler doesn't trace it. The wrapper imports the
    compiler at the first call, unless the attribute below exists. Nothing is compiled here. If a version
    of torch lacks this wrapper, this function changes nothing.
    """
    mode: Any = counter.mode
    method = getattr(type(mode).__torch_dispatch__, "__wrapped__", None)
    if method is not None:
        vars(method).setdefault("__dynamo_disable", method)


def multiply_adds(counter: FlopCounterMode) -> int:
    """Return the multiply-adds so far; each is two of torch's floating-point operations."""
    return counter.get_total_flops() // 2


def count_parameters(holders: Iterable[Any]) -> int:
    """Count the values of all parameters; a shared parameter counts once.

    Args:
        holders: modules and parameters; other objects are ignored.
    """
    sizes: dict[int, int] = {}
    for holder in holders:
        parameters = holder.parameters() if isinstance(holder, nn.Module) else [holder]
        sizes |= {id(p): p.numel() for p in parameters if isinstance(p, nn.Parameter)}
    return sum(sizes.values())
