"""Functions shared by several network families: initial weights, and checks of sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy

from stitch_sweep.core.bounds import MOST_PARAMETERS
from stitch_sweep.core.errors import InputError


@contextmanager
def limited_size(name: str, most: int = MOST_PARAMETERS) -> Iterator[None]:
    """Stop making a network as soon as its parameters and buffers have more than `most` values.

    Each tensor is counted before it is written, and unwritten memory costs nothing.

    Args:
        name: name of the network in the message.
        most: largest number of values in all parameters and buffers.

    Raises:
        InputError: the network is larger, or the machine has not enough memory for it.
    """
    count = 0

    def add(module: nn.Module, key: str, tensor: object) -> None:
        nonlocal count
        if isinstance(tensor, torch.Tensor) and not is_lazy(tensor):
            count += tensor.numel()
        if count > most:
            raise InputError(f"{name}: has more than {most} parameters, the largest number allowed")

    handles = [
        register_module_parameter_registration_hook(add),
        register_module_buffer_registration_hook(add),
    ]
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "allocat" not in str(error) and not isinstance(error, MemoryError):
            raise
        raise InputError(f"{name}: this machine has not enough memory for it ({error})") from error
    finally:
        for handle in handles:
            handle.remove()


def initialize_weights(network: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Draw all weights except the head's from He et al.'s (2015, arXiv 1502.01852) normal distribution.

    The variance is 2 / fan. Biases become 0. The head is the module named `fc`; it keeps torch's default.
    Linear layers are included only with "fan_in", for networks without normalization: there the
    distribution preserves the mean square of activations from layer to layer.

    Args:
        network: a newly built network.
        mode: "fan_in" or "fan_out".
    """
    kinds = (nn.Conv2d, nn.Linear) if mode == "fan_in" else (nn.Conv2d,)
    for path, module in network.named_modules():
        if isinstance(module, kinds) and path != "fc":
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_halvings(family: str, image_size: int, halvings: int) -> None:
    """Check that an image's sides can be halved `halvings` times, rounding down.

    Raises:
        InputError: a side would become 0.
    """
    if image_size < 2**halvings:
        raise InputError(
            f"network family {family}, blocks: {halvings + 1} stages halve the sides of a feature "
            f"map {halvings} times, and images of {image_size}x{image_size} are too small for that; "
            f"allowed: images of {2**halvings}x{2**halvings} or larger, or fewer stages"
        )
