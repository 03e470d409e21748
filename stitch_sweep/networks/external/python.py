"""Networks from a user's function, the *factory*.

A factory is code that Stitch Sweep runs, so only the configuration that the user starts may name a
factory. Code that is named in a results folder or a zoo is never imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from stitch_sweep.config.networks import is_file, is_in_memory
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.user_files import import_file, import_named, read_source
from stitch_sweep.networks.external import in_memory

_files: dict[str, ModuleType] = {}


def find(factory: str) -> Callable[..., Any]:
    """Import the function that an import path names.

    Args:
        factory: `package.module:function`, for an installed package (on a cluster: installed on every
            node), or `path/to/file.py:function`. A file is imported alone, so it can't import the files
            beside it. Or the name of a module that the caller gave; see `in_memory.keep`.

    Raises:
        InputError: the path can't be imported, or has no such function.
    """
    path, _, name = factory.rpartition(":")
    if is_in_memory(factory):
        return in_memory.find(factory)
    module = _import_file(path) if is_file(factory) else _import_package(path)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        public = [key for key in functions if not key.startswith("_")]
        raise InputError(f"{path} has no function {name!r}: {nearest(name, public)}")
    typed_function: Callable[..., Any] = function
    return typed_function


def file_hash(factory: str) -> str | None:
    """Return the SHA-256 (hex) of a factory's file; None for a package's factory.

    Raises:
        InputError: there is no such file.
    """
    if not is_file(factory):
        return None
    source = read_source(factory.rpartition(":")[0], "factory")
    return hashlib.sha256(source.code).hexdigest()


def local_modules() -> list[ModuleType]:
    """Return the Python modules that other processes can't import by name.

    These are the files imported so far, and the modules that define networks given by the caller.
    """
    return [*_files.values(), *in_memory.local_modules()]


def _import_file(path: str) -> ModuleType:
    module, _ = import_file(path, "factory")
    _files[module.__name__] = module
    return module


def _import_package(path: str) -> ModuleType:
    try:
        return import_named(path, f"factory {path}")
    except InputError as error:
        raise InputError(
            *(f"{problem}; a file's path ends in .py" for problem in error.problems)
        ) from error
