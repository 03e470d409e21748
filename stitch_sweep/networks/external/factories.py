"""Call the function that makes a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from stitch_sweep.core.bounds import MOST_EXTERNAL_PARAMETERS
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.foreign_errors import describe_error
from stitch_sweep.networks.external.wrappers import unwrap_all
from stitch_sweep.networks.families.parts import limited_size


def call_factory(make: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> nn.Module:
    """Make a network without the wrappers of `torch.compile` and `DataParallel`.

    Args:
        make: the function.
        arguments: its arguments by name.
        name: the network's name in messages.

    Raises:
        InputError: the function raises an exception, or returns no module or a TorchScript module.
    """
    try:
        with limited_size(name, MOST_EXTERNAL_PARAMETERS):
            network = make(**arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a user's factory may raise anything
        raise InputError(f"{name} could not be made: {describe_error(error)}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{name} returned a {type(network).__name__}, not a torch.nn.Module")
    if isinstance(network, torch.jit.ScriptModule):
        raise InputError(
            f"{name} returned a TorchScript module, which can't be cut; return the torch.nn.Module it "
            "was made from, with its state_dict()"
        )
    return unwrap_all(network)
