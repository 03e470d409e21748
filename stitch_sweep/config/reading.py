"""Read a configuration file, and find every problem that can be found before anything starts."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from glob import has_magic
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from stitch_sweep.config.models import FROM_FACTORY, WEIGHTS, Config, is_file
from stitch_sweep.config.paths import as_list, assign
from stitch_sweep.config.space import search_problems
from stitch_sweep.config.yaml_text import LARGEST_FILE, dump, parse
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.patterns import find
from stitch_sweep.core.problems import describe_problems, show
from stitch_sweep.core.untrusted import read_file


def read_config(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and check a configuration file.

    Args:
        path: a YAML file. Paths in it are looked up beside it first, then in the current folder.
        overrides: dotted path -> value, as given by `--set`.

    Raises:
        InputError: every problem found, one line each.
    """
    path = Path(path)
    tree = read_yaml(path)
    problems = []
    for key, value in (overrides or {}).items():
        try:
            assign(tree, key, value)
        except InputError as error:
            problems += [f"--set {problem}" for problem in error.problems]
    problems += [f"{path}: {problem}" for problem in _find_files(tree, path.parent)]
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems += [f"{path}: {problem}" for problem in describe_problems(error, Config)]
    else:
        problems += [f"{path}: {problem}" for problem in search_problems(config)]
        if not _is_folder_or_free(Path(config.zoo)):
            problems.append(f"{path}: zoo: {config.zoo} is a file, a folder is wanted")
    if problems:
        raise InputError(*problems)
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping of plain data.

    Raises:
        InputError: missing, a folder, empty, binary, unparsable, with a key twice, or no mapping.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, a YAML file is wanted")
    try:
        text = read_file(path, LARGEST_FILE).decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a text file (UTF-8), a YAML file is wanted") from None
    try:
        tree = parse(text)
    except InputError as error:
        raise InputError(*(f"{path}: {problem}" for problem in error.problems)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{path}: {where}is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is not YAML of plain values: {reason}") from None
    if tree is None:
        raise InputError(f"{path}: is empty")
    if not isinstance(tree, dict):
        raise InputError(f"{path}: wants key: value pairs, got {show(tree)}")
    return tree


def parse_value(text: str) -> Any:
    """One value written as in a YAML file, for `--set`; text that is no YAML is itself the value.

    Raises:
        InputError: as of `yaml_text.parse`; or bytes that are no text.
    """
    try:
        return parse(text)
    except (yaml.YAMLError, ValueError, TypeError):
        return text


def to_yaml(config: BaseModel) -> str:
    """A configuration as YAML text that reads back equal."""
    return dump(config.model_dump(mode="json"))


def _find_files(tree: dict[str, Any], folder: Path) -> list[str]:
    """Put found paths, and the content of a space file, in the place of paths; returns what is wrong."""
    problems: list[str] = []

    def found(section: dict[str, Any], key: str, place: str) -> str:
        try:
            return _found(section[key], folder)
        except InputError as error:
            problems.extend(f"{place}{key}: {problem}" for problem in error.problems)
            return str(section[key])

    zoo = tree.setdefault("zoo", Config.model_fields["zoo"].default)
    if isinstance(zoo, str) and zoo and os.path.exists(beside := folder.absolute() / zoo):  # noqa: PTH110
        tree["zoo"] = str(beside)
    beton = data.get("beton_folder") if isinstance(data := tree.get("data"), dict) else None
    for place, name in (("zoo", zoo), ("data.beton_folder", beton)):
        if isinstance(name, str) and (why := _no_path(folder / name)):
            problems.append(f"{place}: {show(name)} {why}")
    sections = [("data.", tree.get("data"))]
    sections += [(f"networks[{i}].", of) for i, of in enumerate(as_list(tree.get("networks")))]
    for place, section in sections:
        if not isinstance(section, dict):
            continue
        for key in ("path", "weights"):
            name = section.get(key)
            if isinstance(name, str) and name and name not in (*WEIGHTS, FROM_FACTORY):
                section[key] = found(section, key, place)
        name = section.get("factory")
        if isinstance(name, str) and is_file(name):
            file, _, function = name.rpartition(":")
            section["factory"] = f"{found({'factory': file}, 'factory', place)}:{function}"
    search = tree.get("search")
    if isinstance(search, dict) and isinstance(search.get("space"), str):
        try:
            search["space"] = read_yaml(Path(_found(search["space"], folder)))
        except InputError as error:
            problems += [f"search.space: {problem}" for problem in error.problems]
            del search["space"]  # or it would be reported twice
            search.pop("samples", None)
    return problems


def _found(name: str, folder: Path) -> str:
    """A path or pattern beside the configuration, else in the current folder, else as it stands.

    Raises:
        InputError: it can be no file's, a pattern would search too much, or there is no such user.
    """
    try:
        expanded = Path(name).expanduser()
    except RuntimeError:
        raise InputError(f"{show(name)}: there is no such user") from None
    for base in (folder, Path()):
        candidate = base.absolute() / expanded
        if why := _no_path(candidate):
            raise InputError(f"{show(name)} {why}")
        if candidate.exists() or (has_magic(name) and any(True for _ in find(candidate))):
            return str(candidate)
    return name


def _no_path(path: Path) -> str | None:
    """Why no file can have this path; None where one can, whether or not there is one."""
    try:
        path.lstat()
    except ValueError:
        return "holds a character that no file's name has"
    except OSError as error:
        return "is too long for a file's name" if error.errno == errno.ENAMETOOLONG else None
    return None


def _is_folder_or_free(path: Path) -> bool:
    return os.path.isdir(path) or not os.path.exists(path)  # noqa: PTH110, PTH112
