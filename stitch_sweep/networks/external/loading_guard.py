"""Keep libraries from loading files or running code in files while they make a network."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from stitch_sweep.core.errors import InputError

_FORCE, _FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_LOADERS = (
    *((torch, "load"), (torch.jit, "load")),
    *((torch.hub, "load_state_dict_from_url"), (torch.hub, "download_url_to_file")),
)
_LOADING_EVENTS = {
    "pickle.find_class": "code in a file",
    "socket.connect": "something from a network address",
    "socket.getaddrinfo": "something from a network address",
}
"""Python's audit events for loading, which occur with every function that loads something."""


class _Guard(threading.local):
    """The network that is made in this thread, and the refusal of its last attempt to load something."""

    building: str | None = None
    refused: InputError | None = None

    def refuse(self, source: str) -> InputError:
        self.refused = InputError(
            f"{self.building} would load {source} while it is built, and that is not allowed; "
            "weights: takes a file or the name of weights"
        )
        return self.refused


_guard = _Guard()


@contextmanager
def nothing_loaded(name: str) -> Iterator[None]:
    """Refuse to load files with torch, to unpickle classes and to connect, in this thread.

    Args:
        name: the network that a library makes in this block, for messages.

    Raises:
        InputError: the library tried to load something, even if it continued without it.
    """
    _add_audit_hook()
    _guard.building, _guard.refused = name, None
    patches = [
        mock.patch.object(module, loader, _refusing(getattr(module, loader)))
        for module, loader in _LOADERS
    ]
    try:
        for patch in patches:
            patch.start()
        yield
    finally:
        for patch in patches:
            patch.stop()
        _guard.building = None
    if _guard.refused is not None:
        raise _guard.refused


@contextmanager
def torch_weights_only(source: str) -> Iterator[None]:
    """Make torch.load read only weights, for every caller.

    Args:
        source: the network and its weights, for messages.

    Raises:
        InputError: the weights could not be loaded.
    """
    try:
        with mock.patch.dict(os.environ, {_FORCE: "1"}):
            os.environ.pop(_FORBID, None)  # torch refuses both arguments together
            yield
    except InputError as error:
        raise InputError(*(f"{source}: {problem}" for problem in error.problems)) from None


@functools.cache
def _add_audit_hook() -> None:
    """Make Python call the guard before it unpickles or connects; audit hooks can't be removed."""

    def check(event: str, _: tuple[Any, ...]) -> None:
        if event in _LOADING_EVENTS and _guard.building is not None:
            raise _guard.refuse(_LOADING_EVENTS[event])

    sys.addaudithook(check)


def _refusing(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def refuse(*args: Any, **kwargs: Any) -> Any:
        if _guard.building is None:  # another thread
            return load(*args, **kwargs)
        raise _guard.refuse("a file")

    return refuse
