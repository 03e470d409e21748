"""The key `plugins` lists files and modules that register stitches, losses, measures, data sets and more.

```yaml
plugins: [./mine.py, my_package.stitches]
```

A name that ends in `.py` is a file, looked up as in [Paths](#paths). Every other name is a module that
Python can import. An installed package that declares its plugin as an entry point in the group
`stitch_sweep.plugins` needs no key. [Extensions of your own](../tutorials/extensions.md) builds a plugin
of each kind.

- Reading a configuration runs its plugins. [Security](../explanation/security.md) says when Stitch
  Sweep runs no plugin.
- If a plugin registers a name that is already registered, Stitch Sweep refuses it and prints both
  places.
- The code of a plugin affects results. If you change a used plugin, a resume is refused, and networks
  of its families are trained again. You may add plugins.
- A plugin that registers only callbacks affects no result, so you may change it.
- Workers get the source of plugins: a single file, or all Python files of a package (at most 16 MiB).
  Other packages that a plugin imports must be installed on every node.
- Objects that a notebook or a script registers need no key. Workers get pickled copies of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainValidator

from stitch_sweep.config.components import check_length
from stitch_sweep.config.paths import as_list
from stitch_sweep.core import plugins
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.plugins import Plugin
from stitch_sweep.core.problems import Location, errors_at, mismatch, refusal, show
from stitch_sweep.core.registry import Registration

if TYPE_CHECKING:
    from stitch_sweep.config.root import Config

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def check_plugins(value: Any) -> list[str]:
    """Validate the value of `plugins`; nothing is imported.

    Raises:
        PydanticCustomError, ValidationError: the value is not a list of distinct names of plugins.
    """
    if not isinstance(value, list):
        raise refusal(mismatch("a list of Python files (./mine.py) and modules", value))
    check_length(value, value)
    problems: list[tuple[Location, str]] = []
    names: dict[str, int] = {}
    for k, name in enumerate(value):
        if not _is_name(name):
            problems.append(((k,), mismatch("a Python file (./mine.py) or a module", name)))
            continue
        short = Path(name).name if plugins.is_file(name) else name
        if (first := names.setdefault(short, k)) < k:
            # Plugins are recorded by these names, so that a project can move.
            problems.append(((k,), f"{show(short)} is the name of plugins[{first}]; rename one"))
    if problems:
        raise errors_at("plugins", problems)
    return list(value)


Plugins = Annotated[list[str], PlainValidator(check_plugins, json_schema_input_type=list[str])]


def load_plugins(tree: Mapping[str, Any]) -> None:
    """Load the plugins of a raw configuration that the user starts, and those of installed packages.

    This runs them. Entries that aren't names of plugins are skipped: validation reports them.

    Args:
        tree: a raw configuration, whose paths are resolved and whose values may have any type.

    Raises:
        InputError: a plugin can't be loaded.
    """
    problems = []
    try:
        plugins.load_installed()
    except InputError as error:
        problems += error.problems
    for k, name in enumerate(as_list(tree.get("plugins"))):
        if not _is_name(name):
            continue
        try:
            plugins.load(name)
        except InputError as error:
            problems += [f"plugins[{k}]: {problem}" for problem in error.problems]
    if problems:
        raise InputError(*problems)


def used_extensions(config: Config) -> list[Plugin | Registration]:
    """Return the plugins that a configuration lists or uses, and the registered objects that it uses."""
    return plugins.used(set(_texts(config)), config.plugins)


def plugin_contents(config: Config) -> dict[str, str]:
    """Return the SHA-256 (hex) of the content of everything that `used_extensions` returns, by name."""
    return plugins.contents(set(_texts(config)), config.plugins)


def _texts(config: Config) -> Iterator[str]:
    return plugins.texts(config.model_dump(exclude={"plugins", "tracking"}))


def _is_name(name: Any) -> bool:
    if not isinstance(name, str):
        return False
    return name.endswith(".py") if plugins.is_file(name) else _MODULE.fullmatch(name) is not None
