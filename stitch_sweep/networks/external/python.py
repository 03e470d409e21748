"""Networks from a user's function, the *factory*.

A factory is code that Stitch Sweep runs, so only the configuration that the user starts may name a
factory. Code that is named in a results folder or a zoo is never imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from stitch_sweep.config.networks import is_file, is_in_memory
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.networks.errors import describe_error
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
    return hashlib.sha256(_read(factory.rpartition(":")[0])).hexdigest()


def local_modules() -> list[ModuleType]:
    """Return the Python modules that other processes can't import by name.

    These are the files imported so far, and the modules that define networks given by the caller.
    """
    return [*_files.values(), *in_memory.local_modules()]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or "it can't be read"
        raise InputError(
            f"factory {path}: {reason}; paths are relative to the configuration's folder"
        ) from None


def _import_file(path: str) -> ModuleType:
    # The name depends on the content, so an edited file gets a new name and replaces no other module.
    name = f"stitch_sweep_file_{hashlib.sha256(_read(path)).hexdigest()[:16]}"
    if name not in _files:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise InputError(f"factory {path}: is not a Python file (.py)")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses, for example, look up their module there
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise InputError(
                f"factory {path} can't be imported: {describe_error(error)}"
            ) from error
        _files[name] = module
    return _files[name]


def _import_package(path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"factory {path} can't be imported: {describe_error(error)}; a file's path ends in .py"
        ) from error
