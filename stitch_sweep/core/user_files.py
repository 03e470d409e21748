"""Modules of the user: files that are imported alone, and modules whose source another process sent.

A file gets a module name that depends on its content. An edited file therefore never takes the place of
its earlier version, and two processes with the same file agree on the name. The imported bytes are those
that were read and hashed, on every machine.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.foreign_errors import describe_error
from stitch_sweep.core.registry import Registration, drop_module, restore
from stitch_sweep.core.untrusted import MIB, read_file

LARGEST_SOURCE = 16 * MIB
"""Largest size of a file, and of all files of a package, in bytes."""


class Source(NamedTuple):
    """The source of one module.

    Attributes:
        code: content of its file.
        file: path of its file on the machine that read it, for tracebacks.
        is_package: whether it is the `__init__.py` of a package.
    """

    code: bytes
    file: str
    is_package: bool = False


class _Loader(ExecutionLoader, MetaPathFinder):
    """Finds and loads the modules of `sources`."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.sources:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def get_filename(self, fullname: str) -> str:
        return self.sources[fullname].file

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.sources[fullname].code)

    def is_package(self, fullname: str) -> bool:
        return self.sources[fullname].is_package


_loader = _Loader()


_names: dict[str, str] = {}
"""Name of the module that a file's path stands for now."""
_replaced: dict[str, list[Registration]] = {}
"""What earlier versions of files have registered, by the names of their modules."""


def read_source(path: str, place: str) -> Source:
    """Read a Python file.

    Args:
        path: of the file.
        place: what names the file, for messages.

    Raises:
        InputError: the file can't be read, or is no Python file.
    """
    if not path.endswith(".py"):
        raise InputError(f"{place} {path}: is not a Python file (.py)")
    try:
        return Source(read_file(Path(path), LARGEST_SOURCE), path)
    except FileNotFoundError:
        raise InputError(f"{place} {path}: there is no such file") from None
    except InputError as error:
        raise InputError(*(f"{place} {problem}" for problem in error.problems)) from None


def module_name(source: Source) -> str:
    """Return the name under which a file is imported alone."""
    return f"stitch_sweep_file_{hashlib.sha256(source.code).hexdigest()[:16]}"


def import_file(path: str, place: str) -> tuple[ModuleType, Source]:
    """Import a file alone: it can't import the files beside it.

    What an earlier version of the file has registered is removed.

    Args:
        path: of the file.
        place: what names the file, for messages.

    Raises:
        InputError: the file can't be read, or raises an exception.
    """
    source = read_source(path, place)
    name, key = module_name(source), str(Path(path).absolute())
    if (earlier := _names.get(key, name)) != name and (entries := drop_module(earlier)):
        _replaced[earlier] = entries
    module = import_sources({name: source}, name, f"{place} {path}")
    restore(_replaced.pop(name, ()))
    _names[key] = name
    return module, source


def import_sources(sources: Mapping[str, Source], name: str, place: str) -> ModuleType:
    """Import a module from sources; a module that is imported already is returned as it is.

    Args:
        sources: the module and those that it imports from its own package, by name.
        name: of the module.
        place: what names the module, for messages.

    Raises:
        InputError: the module raises an exception.
    """
    if _loader not in sys.meta_path:
        # First, so that a module of the same name elsewhere doesn't take the place of the hashed one.
        sys.meta_path.insert(0, _loader)
    _loader.sources.update(sources)
    return import_named(name, place)


def import_named(name: str, place: str) -> ModuleType:
    """Import a module by its name.

    Args:
        name: dotted name.
        place: what names the module, for messages.

    Raises:
        InputError: there is no such module, or it raises an exception.
    """
    try:
        return importlib.import_module(name)
    except InputError as error:
        drop_module(name)
        raise InputError(*(f"{place}: {problem}" for problem in error.problems)) from error
    except (Exception, SystemExit) as error:  # the module may raise anything
        drop_module(name)
        raise InputError(f"{place} can't be imported: {describe_error(error)}") from error
