"""No path depends on the current folder.

The root of a project is the nearest folder, from the configuration's folder upwards, that contains a
file `stitch-sweep.yml`. Without such a file, the root is the configuration's folder. The file may be
empty. In a folder where everyone may create files (with the sticky bit, such as `/tmp`), the file is
ignored.

- `data.path`, `weights`, `factory`, `plugins`, `zoo`, `beton_folder`, `tensorboard`, the path of an
  sqlite `uri`, `search.space` and `search.enqueue` are looked up next to the configuration first, then
  in the root. A zoo, a store or a folder for FFCV or TensorBoard that exists in neither place is
  created in the root.
- A path that begins with `./` or `../` is relative to the configuration's folder and looked up nowhere
  else. `~` is your home folder. Paths in `--set` follow the same rules as paths in the file.
- `${env:NAME}` in these values, and in `include` and `uri`, stands for an environment variable: `zoo:
  ${env:SCRATCH}/zoo`. A variable that isn't set or is empty is an error. Stored files contain the
  variable's name, not its value.
- `config.resolved.yml` contains the paths as you wrote them; with `--folder`, paths within the project
  are relative to that folder. So a project can be moved or copied as a whole.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stitch_sweep.config.networks import FROM_FACTORY, WEIGHTS, is_file
from stitch_sweep.config.paths import as_list
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.problems import dotted

MARKER = "stitch-sweep.yml"
"""Name of the file that marks the root of a project. Its content is not read."""

_VARIABLE = re.compile(r"\$\{env:([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)([^?]*)(.*)", re.IGNORECASE | re.DOTALL)
_KEYS = (
    "zoo",
    "data.path",
    "data.beton_folder",
    "networks.weights",
    "networks.factory",
    "search.space",
    "search.enqueue",
    "tracking.uri",
    "tracking.tensorboard",
    "include",
    "plugins",
)
"""Keys whose values are paths or addresses."""


@dataclass(frozen=True)
class Places:
    """The folders of a configuration. They are no part of its content, so all places are equal.

    Attributes:
        folder: folder of the configuration, absolute.
        root: root of its project, absolute.
        written: relative paths as the configuration has them, and those with variables, by the
            path that they stand for. An included file's relative paths belong to another folder.
    """

    folder: Path = field(default_factory=Path.cwd, compare=False)
    root: Path = field(default_factory=Path.cwd, compare=False)
    written: dict[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of_folder(cls, folder: Path) -> Places:
        """Return the places of a configuration in a folder."""
        return cls(absolute(folder), find_root(folder))

    @property
    def bases(self) -> tuple[Path, Path]:
        """Folders in which relative paths are looked up, in this order."""
        return self.folder, self.root

    def locate(self, name: str) -> Path:
        """Return the path of a file or folder that Stitch Sweep creates if it is missing.

        Args:
            name: an absolute path; or a relative one, which is that of an existing file beside the
                configuration, else below the project's root. A name that begins with `./` or `../` is
                always relative to the configuration.
        """
        path = Path(name).expanduser()
        is_beside = is_fixed(name) or os.path.lexists(self.folder / path)
        return absolute((self.folder if is_beside else self.root) / path)

    def to_portable(self, tree: dict[str, Any], folder: Path | None) -> None:
        """Replace the paths in a dumped configuration by those that mean the same in a folder, in place.

        Paths with environment variables, and all paths in the configuration's own folder, are written as
        the user wrote them.

        Args:
            tree: a dumped configuration.
            folder: in which the dump is stored. In the project, paths within the project are relative to
                it, so that the project can be moved or copied. None: paths stay absolute.
        """
        for section, key, _ in path_values(tree):
            name, colon, function = split_factory(key, section[key])
            section[key] = f"{self._to_portable(name, key, folder)}{colon}{function}"

    def _to_portable(self, name: str, key: str, folder: Path | None) -> str:
        written = self.written.get(name, name)
        if has_variables(written):
            return written
        if folder is None:
            return name
        is_own = absolute(folder) == self.folder
        if is_own and (key == "uri" or name in self.written):
            return written
        scheme, rest = "", ""
        if key == "uri":
            scheme, name, rest = split_sqlite(self.locate_database(name))
        if not (Path(name).is_absolute() and self._has(Path(name), folder)):
            return f"{scheme}{name}{rest}"
        relative = Path(os.path.relpath(name, absolute(folder))).as_posix()
        return f"{scheme}{relative if relative.startswith('..') else f'./{relative}'}{rest}"

    def locate_database(self, uri: str) -> str:
        """Return an sqlite address with an absolute path; other addresses are returned unchanged."""
        scheme, name, rest = split_sqlite(uri)
        # Whether a quoted character is decoded depends on SQLAlchemy's version.
        if not scheme or name in ("", ":memory:") or "%" in name or Path(name).is_absolute():
            return uri
        return f"{scheme}{quote_database(self.locate(name))}{rest}"

    def _has(self, *paths: Path) -> bool:
        """Return whether all paths lie below the root."""
        return all(absolute(path).is_relative_to(self.root) for path in paths)


def split_sqlite(uri: str) -> tuple[str, str, str]:
    """Split an sqlite address into scheme, path and parameters; the scheme of others is empty."""
    match = _SQLITE.fullmatch(uri)
    return (match[1], match[2], match[3]) if match else ("", uri, "")


def quote_database(path: Path) -> str:
    """Return a path as it stands in an sqlite address."""
    return str(path).replace("%", "%25").replace("?", "%3F")


def absolute(path: Path) -> Path:
    """Return an absolute path without `..`; symbolic links stay."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def find_root(folder: Path) -> Path:
    """Return the root of the project that a folder belongs to, as an absolute path.

    A marker in a folder where every user may create files, such as `/tmp`, doesn't count: another user
    could redirect what Stitch Sweep reads and writes.
    """
    folder = absolute(folder)
    for candidate in (folder, *folder.parents):
        try:
            if (candidate / MARKER).is_file() and not _is_shared(candidate):
                return candidate
        except OSError:
            continue  # no permission
    return folder


def _is_shared(folder: Path) -> bool:
    mode = folder.stat().st_mode
    return bool(mode & stat.S_ISVTX and mode & stat.S_IWOTH)


def path_values(tree: Mapping[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    """Iterate over the paths and addresses of a raw configuration.

    Yields:
        The section or list, the key or index in it whose value is text, and the dotted path of the value.
    """
    plugins = as_list(tree.get("plugins"))
    for k, name in enumerate(plugins):
        if isinstance(name, str) and name.endswith(".py"):
            yield plugins, k, f"plugins[{k}]"
    networks = [(f"networks[{i}].", entry) for i, entry in enumerate(as_list(tree.get("networks")))]
    sections = [("", tree), *networks]
    sections += [(f"{key}.", tree.get(key)) for key in ("data", "search", "tracking")]
    for place, section in sections:
        if not isinstance(section, dict):
            continue
        prefix = re.sub(r"\[\d+\]", "", place)
        for key in [key for key in section if f"{prefix}{key}" in _KEYS]:
            if isinstance(section[key], str) and section[key] and _is_path(key, section[key]):
                yield section, key, f"{place}{key}"


def _is_path(key: str, value: str) -> bool:
    if key == "weights":
        return value not in (*WEIGHTS, FROM_FACTORY)
    return key != "factory" or is_file(value)


def split_factory(key: str, value: str) -> tuple[str, str, str]:
    """Split `path/to/file.py:function` into the file, the colon, and the function."""
    if key != "factory":
        return value, "", ""
    file, colon, function = value.rpartition(":")
    return file, colon, function


def is_fixed(name: str) -> bool:
    """Return whether a path is relative to the file that contains it, and is looked up nowhere else."""
    return name.startswith("./") or Path(name).parts[:1] == ("..",)


def has_variables(text: str | None) -> bool:
    """Return whether a text has an environment variable, `${env:NAME}`."""
    return text is not None and _VARIABLE.search(text) is not None


def variable_names(text: str | None) -> list[str]:
    """Return the names of the environment variables in a text."""
    return _VARIABLE.findall(text or "")


def expand_variables(text: str) -> str:
    """Replace `${env:NAME}` by the value of the environment variable NAME.

    Raises:
        InputError: a variable is not set or empty, or its name is not valid.
    """
    problems = []
    for name in dict.fromkeys(variable_names(text)):
        if not _VARIABLE_NAME.fullmatch(name):
            problems.append(f"${{env:{name}}} names no variable; write it as ${{env:NAME}}")
        elif not os.environ.get(name):
            problems.append(f"the environment variable {name} is not set, or is empty")
    if problems:
        raise InputError(*problems)
    return _VARIABLE.sub(lambda match: os.environ[match[1]], text)


def misplaced_variables(tree: Any) -> Iterator[str]:
    """Find environment variables in values that are no paths or addresses.

    Results depend on these values, so they can't depend on an environment.

    Yields:
        One sentence for each value.
    """
    allowed = {(id(section), key) for section, key, _ in path_values(tree)}
    keys = ", ".join(key.replace("networks", "networks[]") for key in _KEYS)

    def visit(node: Any, location: tuple[str | int, ...]) -> Iterator[str]:
        children = node.items() if isinstance(node, dict) else enumerate(as_list(node))
        for key, value in children:
            if isinstance(value, str) and has_variables(value) and (id(node), key) not in allowed:
                yield f"{dotted((*location, key))}: ${{env:...}} is only allowed in {keys}"
            yield from visit(value, (*location, key))

    yield from visit(tree, ())
