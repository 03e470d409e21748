"""Networks that a function of the user's own makes.

A factory is code, and it is run: only a configuration that the user starts may name one. What a folder of
results or a zoo names is not imported on its word.
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

from stitch_sweep.config.models import is_file
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.networks.external.building import what_went_wrong

_files: dict[str, ModuleType] = {}


def find(factory: str) -> Callable[..., Any]:
    """The function that an import path names.

    Args:
        factory: `package.module:function`, of a package that is installed here (and, on a cluster, on
            every node), or `path/to/file.py:function`. A file is imported alone: of what lies beside it
            nothing can be imported.

    Raises:
        InputError: it can't be imported, or has no such function.
    """
    where, _, name = factory.rpartition(":")
    module = _from_file(where) if is_file(factory) else _from_package(where)
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        own = [key for key in functions if not key.startswith("_")]
        raise InputError(f"{where} has no function {name!r}: {nearest(name, own)}")
    function: Callable[..., Any] = found
    return function


def code(factory: str) -> str | None:
    """SHA-256 (hex) of a factory's file; None for a package's.

    Raises:
        InputError: there is no such file.
    """
    return (
        hashlib.sha256(_read(factory.rpartition(":")[0])).hexdigest() if is_file(factory) else None
    )


def loaded_files() -> list[ModuleType]:
    """Modules of files imported so far: another process can't import them by name."""
    return list(_files.values())


def _read(where: str) -> bytes:
    try:
        return Path(where).read_bytes()
    except OSError as error:
        reason = error.strerror or "it can't be read"
        raise InputError(
            f"factory {where}: {reason}; paths are looked up beside the file"
        ) from None


def _from_file(where: str) -> ModuleType:
    # Named after its content, so that an edited file is another module and no name is taken.
    name = f"stitch_sweep_file_{hashlib.sha256(_read(where)).hexdigest()[:16]}"
    if name not in _files:
        spec = importlib.util.spec_from_file_location(name, where)
        if spec is None or spec.loader is None:
            raise InputError(f"factory {where}: is no Python file (.py)")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and the like look their module up there
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise InputError(
                f"factory {where} can't be imported: {what_went_wrong(error)}"
            ) from error
        _files[name] = module
    return _files[name]


def _from_package(where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"factory {where} can't be imported: {what_went_wrong(error)}; a file's path ends in .py"
        ) from error
