"""`include: base.yml`, or a list of files, reads other files before this file.

- A path in `include` is relative to the file that contains it.
- A file's own keys override those of the files that it includes. In a list, later files override
  earlier ones.
- Mappings are merged key by key. All other values, also lists, are replaced. Two kinds of mappings are
  replaced as a whole: `loss`, and a section whose `name` the later file changes.
- Files that include themselves are refused.
- Other paths in an included file, except `uri`, are looked up next to that file first; `zoo`,
  `beton_folder` and `tensorboard` only if they begin with `./` or `../`.
- `config.resolved.yml` contains the merged keys and no `include`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stitch_sweep.config.places import expand_variables
from stitch_sweep.config.shorthand import lengthen_sections
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.problems import mismatch

KEY = "include"
MOST_FILES = 50
"""Largest number of files that a configuration includes, counted as often as they are included."""

_WHOLE = ("loss",)
"""Mappings that are replaced as a whole: their keys are the terms of one sum."""


def read_with_includes(
    path: Path,
    read: Callable[[Path], dict[str, Any]],
    resolve: Callable[[dict[str, Any], Path], list[str]],
) -> dict[str, Any]:
    """Read a configuration file, and the files that it includes.

    Args:
        path: the configuration.
        read: reads one file.
        resolve: makes the paths in an included file independent of its folder, which it gets too, and
            returns problems.

    Returns:
        The raw configuration without the key `include`. A file's own keys win over those that it
        includes, and later files over earlier ones; see `merge`.

    Raises:
        InputError: a file can't be read, includes itself, or there are too many.
    """
    count = 0

    def visit(file: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
        nonlocal count
        tree = read(file)
        merged: dict[str, Any] = {}
        names = tree.pop(KEY) if KEY in tree else []
        for included in _included_files(names, file):
            chain = (*parents, file)
            if included.resolve() in [parent.resolve() for parent in chain]:
                shown = " -> ".join(parent.name for parent in (*chain, included))
                raise InputError(f"{file}: {KEY}: {included.name} includes itself ({shown})")
            count += 1
            if count > MOST_FILES:
                raise InputError(f"{file}: {KEY}: more than {MOST_FILES} files are included")
            merged = merge(merged, visit(included, chain))
        if parents and (problems := resolve(tree, file.parent)):
            raise InputError(*(f"{file}: {problem}" for problem in problems))
        return merge(merged, tree)

    return visit(path, ())


def merge(base: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Return a raw configuration with the keys of a later one; the later keys win.

    Mappings are merged key by key, and everything else is replaced, lists too. Two kinds of mappings are
    replaced as a whole: `loss`, and a section whose `name` the later file changes, because its other keys
    may be options of what it named before.

    Example:
        >>> merge({"training": {"epochs": 4, "patience": 2}}, {"training": {"epochs": 1}})
        {'training': {'epochs': 1, 'patience': 2}}
    """
    return _merge(lengthen_sections(base), lengthen_sections(later), top=True)


def _merge(base: dict[str, Any], later: dict[str, Any], *, top: bool = False) -> dict[str, Any]:
    merged = dict(base)
    for key, value in later.items():
        before = merged.get(key)
        merged[key] = value
        if isinstance(before, dict) and isinstance(value, dict):
            is_whole = (top and key in _WHOLE) or _is_renamed(before, value)
            merged[key] = value if is_whole else _merge(before, value)
    return merged


def _is_renamed(before: dict[str, Any], later: dict[str, Any]) -> bool:
    return "name" in before and "name" in later and before["name"] != later["name"]


def _included_files(value: Any, file: Path) -> list[Path]:
    """Return the paths of the files that a file includes, relative to that file."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(
            f"{file}: {KEY}: {mismatch('the path of a file, or a list of paths', value)}"
        )
    try:
        expanded = [Path(expand_variables(name)).expanduser() for name in names]
    except InputError as error:
        raise InputError(*(f"{file}: {KEY}: {problem}" for problem in error.problems)) from None
    except RuntimeError:
        raise InputError(f"{file}: {KEY}: there is no such user") from None
    return [file.parent / name for name in expanded]
