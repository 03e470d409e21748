"""Call what makes a network, and say in a sentence what went wrong."""

from __future__ import annotations

import functools
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from stitch_sweep.core.bounds import MOST_EXTERNAL_PARAMETERS
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.families.parts import limited_size

_FORCE, _FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_LOADING_NAMES = re.compile(
    r"(pretrained(?!_window_size)|checkpoint|weights|cache|download|hub|hf_|url|progress).*|.*_(url|uri|file|dir)"
)
"""Names of arguments by which libraries load weights."""
_LOADERS = (
    *((torch, "load"), (torch.jit, "load")),
    *((torch.hub, "load_state_dict_from_url"), (torch.hub, "download_url_to_file")),
)
_LOADING_EVENTS = {
    "pickle.find_class": "code in a file",
    "socket.connect": "something from a network address",
    "socket.getaddrinfo": "something from a network address",
}
"""Python's audit events that tell of loading, whatever function a library loads with."""


def call(make: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> nn.Module:
    """What a factory makes of its arguments, without what `torch.compile` or `DataParallel` wrap around.

    Raises:
        InputError: it raises something, or what it returns is no module, or a TorchScript module.
    """
    try:
        with limited_size(name, MOST_EXTERNAL_PARAMETERS):
            made = make(**arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a factory is anybody's code
        raise InputError(f"{name} could not be made: {what_went_wrong(error)}") from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{name} returned a {type(made).__name__}, not a torch.nn.Module")
    if isinstance(made, torch.jit.ScriptModule):
        raise InputError(
            f"{name} returned a TorchScript module, which can't be cut; return the torch.nn.Module it "
            "was made from, with its state_dict()"
        )
    return _unwrapped(made)


def _unwrapped(network: nn.Module) -> nn.Module:
    """The network without wrappers for speed, and its parts without theirs."""
    holder = nn.ModuleList([network])
    for module in list(holder.modules()):
        for name, child in list(module._modules.items()):
            if child is not None:
                module._modules[name] = _bare(child)
    return holder[0]


def _bare(module: nn.Module) -> nn.Module:
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif type(module).__name__ == "OptimizedModule":  # a class that is slow to import
            module = module._orig_mod  # type: ignore[assignment]
        else:
            break
    if module._compiled_call_impl is not None:  # of `module.compile()`
        module._compiled_call_impl = None
    return module


def what_went_wrong(error: BaseException) -> str:
    """Type and first line of an error, and the line of code outside of our own that raised it."""
    ours = Path(__file__).parents[2].as_posix()
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)
    ]
    at = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    reason = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {reason}{at}"


def check_arguments(
    library: str, arguments: Mapping[str, Any], refused: Collection[str] = ()
) -> None:
    """Check that arguments for a library's network describe the network alone.

    Args:
        library: what messages call it.
        arguments: by name, as a configuration or a recipe has them.
        refused: names of further arguments by which this library loads something.

    Raises:
        InputError: an argument makes the library load a file, could do so, or is no plain data.
    """
    problems = []
    for place, key, value in _entries("arguments", arguments):
        if key in refused or _LOADING_NAMES.fullmatch(key):
            problems.append(
                f"{place}: is not allowed, because {library} may load a file or an address by it; "
                "weights: takes a file or the name of weights"
            )
        elif isinstance(value, str) and not re.fullmatch(r"[\w+-]*", value):
            problems.append(
                f"{place}: is {value!r}, which may be a file or an address; allowed are numbers, true, "
                "false and words of letters, digits, '_', '+' and '-'"
            )
        elif not (value is None or isinstance(value, str | int | float)):
            problems.append(f"{place}: is a {type(value).__name__}, which {library} can't be given")
    if problems:
        raise InputError(*problems)


def _entries(place: str, value: Any, key: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every number, text and the like in nested mappings and lists: its place, key, and the value."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _entries(f"{place}.{name}", part, str(name))
        if key:
            yield place, key, None
    elif isinstance(value, list | tuple):
        for k, part in enumerate(value):
            yield from _entries(f"{place}[{k}]", part, key)
        if not value:
            yield place, key, None
    else:
        yield place, key, value


class _Watch(threading.local):
    """What is being built in this thread, and what it tried to load."""

    building: str | None = None
    refused: InputError | None = None

    def refuse(self, what: str) -> InputError:
        self.refused = InputError(
            f"{self.building} would load {what} while it is built, and that is not allowed; "
            "weights: takes a file or the name of weights"
        )
        return self.refused


_watch = _Watch()


@functools.cache
def _listen() -> None:
    """Have Python ask before it unpickles a class or connects; there is no way to stop listening."""

    def heard(event: str, _: tuple[Any, ...]) -> None:
        if event in _LOADING_EVENTS and _watch.building is not None:
            raise _watch.refuse(_LOADING_EVENTS[event])

    sys.addaudithook(heard)


def _guarded(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def refuse(*args: Any, **kwargs: Any) -> Any:
        if _watch.building is None:  # another thread
            return load(*args, **kwargs)
        raise _watch.refuse("a file")

    return refuse


@contextmanager
def nothing_loaded(name: str) -> Iterator[None]:
    """Refuse to load files with torch, to unpickle classes and to connect, in this thread.

    Args:
        name: of the network that a library builds meanwhile.

    Raises:
        InputError: the library tried, even if it went on without.
    """
    _listen()
    _watch.building, _watch.refused = name, None
    patches = [mock.patch.object(of, load, _guarded(getattr(of, load))) for of, load in _LOADERS]
    try:
        for patch in patches:
            patch.start()
        yield
    finally:
        for patch in patches:
            patch.stop()
        _watch.building = None
    if _watch.refused is not None:
        raise _watch.refused


@contextmanager
def weights_only(what: str) -> Iterator[None]:
    """Have torch.load read weights and nothing else, whoever calls it.

    Raises:
        InputError: what was to be loaded could not be.
    """
    try:
        with mock.patch.dict(os.environ, {_FORCE: "1"}):
            os.environ.pop(_FORBID, None)  # torch refuses to be told both
            yield
    except InputError as error:
        raise InputError(*(f"{what}: {problem}" for problem in error.problems)) from None
