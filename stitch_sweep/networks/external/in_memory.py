"""Networks that a caller of the Python API gives as modules.

A configuration is plain data, so it names such a network: `factory: in_memory:<class>_<hash>`. The hash
covers the weights and the code of the network. It is therefore part of a sweep's description, and a
resume with another network is refused. The modules themselves are kept in this process; workers get them
as they get all networks.
"""

from __future__ import annotations

import copy
import inspect
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from stitch_sweep.config.networks import IN_MEMORY
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.foreign_errors import describe_error
from stitch_sweep.networks.external.wrappers import unwrap, unwrap_all, unwrap_lightning
from stitch_sweep.storage.digests import digest, tensors_of

_HASH_LENGTH = 16
_networks: dict[str, nn.Module] = {}


def unpack(module: object, name: str) -> nn.Module:
    """Return the network in what a caller gave: without DataParallel, torch.compile and Lightning.

    Wrappers around parts of the network stay; see `wrappers.unwrap_all`.

    Args:
        module: the caller's object.
        name: its name in messages.

    Raises:
        InputError: it is no network, a TorchScript module, or a Lightning module in which the network
            can't be identified.
    """
    if not isinstance(module, nn.Module):
        hint = "; call it" if inspect.isclass(module) and issubclass(module, nn.Module) else ""
        kind = module.__name__ if inspect.isclass(module) else f"a {type(module).__name__}"
        raise InputError(f"{name}: is {kind}, but a torch.nn.Module is required{hint}")
    network = unwrap_lightning(unwrap(module), name)
    if isinstance(network, torch.jit.ScriptModule):
        raise InputError(
            f"{name}: is a TorchScript module, which can't be cut; give the torch.nn.Module that it was "
            "made from"
        )
    return network


def keep(module: object, name: str) -> str:
    """Keep a copy of a network in this process.

    The copy is on the CPU, in eval mode and unpacked; the caller's module stays unchanged, and later
    changes of it have no effect.

    Args:
        module: see `unpack`.
        name: its name in messages.

    Returns:
        Its value of `factory` in a configuration.

    Raises:
        InputError: see `unpack`; or the module can't be copied.
    """
    network = unpack(module, name)
    try:
        network = unwrap_all(copy.deepcopy(network)).cpu().eval()
    except Exception as error:  # a user's module may define how it is copied
        raise InputError(
            f"{name}: {type(network).__name__} can't be copied: {describe_error(error)}"
        ) from error
    path = f"{IN_MEMORY}:{type(network).__name__}_{_identify(network)[:_HASH_LENGTH]}"
    _networks[path] = network
    return path


def find(factory: str) -> Callable[[], nn.Module]:
    """Return a function that returns a new copy of a network.

    Raises:
        InputError: this process doesn't keep it.
    """
    network = _networks.get(factory)
    if network is None:
        raise InputError(
            f"{factory.partition(':')[2]} was given in Python, and no file contains it: call "
            "stitch_sweep.sweep or stitch_sweep.matrix with this network first"
        )
    return lambda: copy.deepcopy(network)


def local_modules() -> list[ModuleType]:
    """Return the top-level Python modules that define the kept networks and aren't installed."""
    names = {
        kind.__module__.partition(".")[0]
        for network in _networks.values()
        for kind in _own_classes(network)
    }
    # Objects of the main program are always sent with their definitions.
    return [sys.modules[name] for name in sorted(names - {"__main__"}) if name in sys.modules]


def _identify(network: nn.Module) -> str:
    """Hash the weights, the structure and, as far as it is known, the code of a network."""
    sources = [_source(kind) for kind in _own_classes(network)]
    return digest(tensors_of(network), "\n".join([str(network), *sources]))


def _own_classes(network: nn.Module) -> list[type[Any]]:
    """Return the classes of a network's parts that belong to no installed package, sorted."""
    kinds = {kind for part in network.modules() for kind in type(part).__mro__}
    return sorted(
        (kind for kind in kinds if not _is_installed(kind)),
        key=lambda kind: (kind.__module__, kind.__qualname__),
    )


def _is_installed(kind: type[Any]) -> bool:
    package = kind.__module__.partition(".")[0]
    if package == "__main__":  # in a notebook it may have the file of the kernel
        return False
    if package in ("torch", "stitch_sweep") or package in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(package), "__file__", None)
    folders = {sysconfig.get_path(key) for key in ("purelib", "platlib", "stdlib")}
    return file is not None and any(Path(file).is_relative_to(folder) for folder in folders)


def _source(kind: type[Any]) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # defined in an interactive session
        return kind.__qualname__
