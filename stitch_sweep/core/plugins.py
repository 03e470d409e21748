"""Plugins: modules of the user that register stitches, losses, network families and more.

A plugin is a Python file, a module that Python can import, or a module that an installed package
declares in the entry point group `stitch_sweep.plugins`. It registers with the package's own
decorators. Its content is hashed when it is loaded.

Another process gets a plugin with everything that it needs: unpickling a `Plugin` imports it from the
source that was hashed, and unpickling a `Registration` registers an object that was defined in the first
process itself, such as in a notebook. Both come before the objects that need them.

A plugin is code that Stitch Sweep runs, so only the configuration that the user starts may name a plugin.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from stitch_sweep.core import registry
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.registry import Registration
from stitch_sweep.core.untrusted import size
from stitch_sweep.core.user_files import (
    LARGEST_SOURCE,
    Source,
    import_file,
    import_named,
    import_sources,
    read_source,
)

ENTRY_POINTS = "stitch_sweep.plugins"
"""Entry point group in which installed packages declare their plugins."""


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin.

    Attributes:
        name: the file's name, or the dotted name of the module.
        module: name of the module in this process.
        sources: the sources of the file, or of all modules of the package, by module.
    """

    name: str
    module: str
    sources: Mapping[str, Source]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of its content."""
        return _hash(self.sources)

    def contains(self, module: str) -> bool:
        """Return whether a module is part of the plugin."""
        return module in self.sources

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive, (self.name, self.module, dict(self.sources))


_loaded: dict[str, Plugin] = {}
"""The loaded plugins: files by their absolute paths, others by their dotted names."""
_has_loaded_installed = False


def is_file(name: str) -> bool:
    """Return whether a plugin's name is the path of a file (`./mine.py`), and not that of a module."""
    return name.endswith(".py") or "/" in name


def load(name: str) -> Plugin:
    """Load a plugin; what it registers can be used from then on.

    A plugin that is loaded already is not run again, unless it is a file that has changed.

    Args:
        name: path of a file, or dotted name of a module.

    Raises:
        InputError: it can't be imported, or it registers a name that another object has.
    """
    if is_file(name):
        module, source = import_file(name, "plugin")
        plugin = Plugin(Path(name).name, module.__name__, {module.__name__: source})
        _loaded[_key(name)] = plugin
        return plugin
    if name not in _loaded:
        plugin = Plugin(name, name, _package_sources(name))
        import_named(name, f"plugin {name}")
        _loaded[name] = plugin
    return _loaded[name]


def read_content(name: str) -> str:
    """Return the SHA-256 (hex) of a plugin's content, without running it.

    Args:
        name: path of a file, or dotted name of a module.

    Raises:
        InputError: there is no such file or module.
    """
    if is_file(name):
        return _hash({name: read_source(name, "plugin")})
    return _hash(_package_sources(name))


def load_installed() -> None:
    """Load the plugins of installed packages, once.

    Raises:
        InputError: a plugin can't be loaded.
    """
    global _has_loaded_installed
    if _has_loaded_installed:
        return
    _has_loaded_installed = True  # a plugin may look for names while it is loaded
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            load(entry.module)
        except InputError as error:
            package = entry.dist.name if entry.dist else entry.name
            raise InputError(
                *(f"{problem} (plugin of the package {package})" for problem in error.problems)
            ) from error


def loaded(name: str) -> Plugin | None:
    """Return the loaded plugin of this name or path; None if it isn't loaded."""
    return _loaded.get(_key(name))


def used(words: Collection[str], listed: Iterable[str] = ()) -> list[Plugin | Registration]:
    """Return the plugins, and the objects that this process itself has registered, that are used.

    Callbacks and plugins that register nothing else are left out: they change no result, and no worker
    needs them.

    Args:
        words: all texts of the settings. An object is used if its name is one of them, or if its kind
            is used without being named, such as a measure.
        listed: names of plugins that count in any case.
    """
    found: dict[str, Plugin | Registration] = {}
    for name in listed:
        if (plugin := loaded(name)) is not None and _decides_results(plugin):
            found[plugin.name] = plugin
    for entry in registry.extensions():
        if entry.decides_results and (entry.name in words or entry.is_always_used):
            extension = _plugin_of(entry) or entry
            found.setdefault(content_name(extension), extension)
    return list(found.values())


def contents(words: Collection[str], listed: Iterable[str] = ()) -> dict[str, str]:
    """Return the SHA-256 (hex) of the content of everything that `used` returns, by its name."""
    return {content_name(item): content_of(item) for item in used(words, listed)}


def content_name(item: Plugin | Registration) -> str:
    """Return the name of a plugin or registered object in descriptions: `mine.py`, `stitch scale`."""
    return item.name if isinstance(item, Plugin) else f"{item.kind} {item.name}"


def content_of(item: Plugin | Registration) -> str:
    """Return the SHA-256 (hex) of the content behind a plugin or registered object.

    An object of a plugin has the content of the plugin; an object of a notebook or script that of its
    function or class.
    """
    if isinstance(item, Registration):
        plugin = _plugin_of(item)
        return item.sha256 if plugin is None else plugin.sha256
    return item.sha256


def defining_modules(items: Iterable[Plugin | Registration]) -> list[ModuleType]:
    """Return the modules of objects that this process has registered itself.

    Another process may not be able to import them, so their objects travel with their definitions.
    """
    names = {item.factory.__module__ for item in items if isinstance(item, Registration)}
    names |= {item.module for item in items if isinstance(item, Registration)}
    return [sys.modules[name] for name in sorted(names) if name in sys.modules]


def texts(settings: Any) -> Iterator[str]:
    """Iterate over all texts of plain data, keys included."""
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from texts(key)
            yield from texts(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from texts(value)


def _key(name: str) -> str:
    return str(Path(name).absolute()) if is_file(name) else name


def _decides_results(plugin: Plugin) -> bool:
    """Return whether a plugin registers anything besides callbacks, or nothing at all."""
    entries = [entry for entry in registry.extensions() if plugin.contains(entry.module)]
    return not entries or any(entry.decides_results for entry in entries)


def _plugin_of(entry: Registration) -> Plugin | None:
    return next((p for p in _loaded.values() if p.contains(entry.module)), None)


def _receive(name: str, module: str, sources: Mapping[str, Source]) -> Plugin:
    """Load a plugin that another process sent, from its own files if they are the same."""
    plugin = Plugin(name, module, sources)
    if plugin in _loaded.values():
        return plugin
    if not is_file(name) and _is_same(name, plugin):
        import_named(module, f"plugin {name}")
    elif module in sys.modules and not is_file(name):
        raise InputError(f"plugin {name}: this process has imported another version of it")
    else:
        import_sources(sources, module, f"plugin {name}")
    _loaded[name] = plugin
    return plugin


def _is_same(name: str, plugin: Plugin) -> bool:
    try:
        return _hash(_package_sources(name)) == plugin.sha256
    except InputError:
        return False


def _package_sources(name: str) -> dict[str, Source]:
    """Read the sources of a module's outermost package, or of the module if it is in none.

    Raises:
        InputError: there is no such module, it isn't written in Python, or it is too large.
    """
    root = next((spec for spec in _specs(name) if _is_python(spec)), None)
    if root is None:
        raise InputError(
            f"plugin {name}: Python finds no module of this name that is written in Python"
        )
    assert root.origin is not None
    if root.submodule_search_locations is None:
        return {root.name: read_source(root.origin, f"plugin {name},")}
    folder, sources, total = Path(root.origin).parent, {}, 0
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join([root.name, *(parts[:-1] if is_package else parts)])
        source = read_source(str(path), f"plugin {name},")
        sources[module] = source._replace(is_package=is_package)
        if (total := total + len(source.code)) > LARGEST_SOURCE:
            raise InputError(
                f"plugin {name}: the package {root.name} has more than {size(LARGEST_SOURCE)} of "
                "Python code; put the plugin into a package of its own"
            )
    return sources


def _specs(name: str) -> Iterator[ModuleSpec]:
    """Iterate over the specs of a module's packages, the outermost first, and of the module itself."""
    parts = name.split(".")
    for k in range(1, len(parts) + 1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:k]))
        except (ImportError, ValueError):
            return
        if spec is not None:
            yield spec


def _is_python(spec: ModuleSpec) -> bool:
    return spec.origin is not None and spec.origin.endswith(".py")


def _hash(sources: Mapping[str, Source]) -> str:
    if len(sources) == 1:
        (source,) = sources.values()
        return hashlib.sha256(source.code).hexdigest()
    lines = [
        f"{hashlib.sha256(s.code).hexdigest()} {name}\n" for name, s in sorted(sources.items())
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
