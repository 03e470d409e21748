"""Reading of a configuration file, with all problems that can be found before anything starts."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Mapping
from glob import has_magic
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from stitch_sweep.config.networks import FROM_FACTORY, WEIGHTS, is_file
from stitch_sweep.config.paths import as_list, assign
from stitch_sweep.config.plugins import load_plugins
from stitch_sweep.config.root import Config
from stitch_sweep.config.space import search_problems
from stitch_sweep.config.yaml_text import LARGEST_FILE, dump, parse
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.patterns import find
from stitch_sweep.core.plugins import is_file as is_plugin_file
from stitch_sweep.core.problems import describe_problems, mismatch, show
from stitch_sweep.core.untrusted import read_file


def read_config(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and validate a configuration file; the plugins that it names are run.

    Args:
        path: a YAML file. Relative paths in it are searched in its folder first, then in the current
            folder.
        overrides: {dotted path: value}, as given by `--set`.

    Raises:
        InputError: all problems, one sentence each.
    """
    path = Path(path)
    tree = read_yaml(path)
    problems = []
    for key, value in (overrides or {}).items():
        try:
            assign(tree, key, value)
        except InputError as error:
            problems += [f"--set {problem}" for problem in error.problems]
    try:
        config = make_config(tree, path.parent, f"{path}: ")
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(*problems)
    return config


def make_config(tree: dict[str, Any], folder: Path, place: str = "") -> Config:
    """Validate a configuration of plain data; the plugins that it names are run.

    Args:
        tree: the content of a file; its paths are resolved in place.
        folder: relative paths are searched in this folder first, then in the current folder.
        place: text before each problem.

    Raises:
        InputError: all problems, one sentence each.
    """
    problems = _resolve_paths(tree, folder)
    try:
        load_plugins(tree)
    except InputError as error:  # names of its objects would be reported as unknown
        problems += error.problems
        raise InputError(*(f"{place}{problem}" for problem in problems)) from error
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems += describe_problems(error, Config)
    else:
        problems += search_problems(config)
        if not _is_folder_or_free(Path(config.zoo)):
            problems.append(f"zoo: {config.zoo} is a file, expected a folder")
    if problems:
        raise InputError(*(f"{place}{problem}" for problem in problems))
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping of plain data.

    Raises:
        InputError: missing, a folder, empty, binary, not valid YAML, with a repeated key, or not a
            mapping.
    """
    tree = _read_plain(path)
    if tree is None:
        raise InputError(f"{path}: is empty")
    if not isinstance(tree, dict):
        raise InputError(f"{path}: {mismatch('key: value pairs', tree)}")
    return tree


def _read_plain(path: Path, expected: str = "a YAML file") -> Any:
    """Read a YAML file that contains plain data.

    Args:
        path: of the file.
        expected: what the path may name, for messages.

    Raises:
        InputError: see `read_yaml`.
    """
    text = _read_text(path, expected)
    try:
        return parse(text)
    except InputError as error:
        raise InputError(*(f"{path}: {problem}" for problem in error.problems)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{path}: {position}is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is not YAML of plain values: {reason}") from None


def _read_text(path: Path, expected: str) -> str:
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected {expected}")
    try:
        return read_file(path, LARGEST_FILE).decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a text file (UTF-8), expected {expected}") from None


def _read_settings(path: Path) -> Any:
    """Read a list of settings from a file: YAML, JSON, or CSV with a header of dotted paths.

    In a CSV file, an empty cell means that the row doesn't have the setting.

    Raises:
        InputError: the file can't be read.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    expected = "a YAML, JSON or CSV file"
    if path.suffix.lower() != ".csv":
        return _read_plain(path, expected)
    text = _read_text(path, expected)
    rows = csv.DictReader(io.StringIO(text), restkey="", restval="")
    if "" in (rows.fieldnames or ()):
        raise InputError(f"{path}: line 1: a column has no name")
    settings = []
    for row in rows:
        if row.get("") is not None:
            raise InputError(f"{path}: line {rows.line_num}: has more cells than the header")
        try:
            settings.append({key: parse_value(text) for key, text in row.items() if text})
        except InputError as error:
            raise InputError(
                *(f"{path}: line {rows.line_num}: {problem}" for problem in error.problems)
            ) from None
    return settings


def parse_value(text: str) -> Any:
    """Parse one value of `--set`, written as in a YAML file. Text that is not YAML is returned unchanged.

    Raises:
        InputError: see `yaml_text.parse`; or the text is not valid Unicode.
    """
    try:
        return parse(text)
    except (yaml.YAMLError, ValueError, TypeError):
        return text


def to_yaml(config: BaseModel) -> str:
    """Return a configuration as YAML text. Reading the text gives an equal configuration."""
    return dump(config.model_dump(mode="json"))


def _resolve_paths(tree: dict[str, Any], folder: Path) -> list[str]:
    """Resolve all paths in a raw configuration in place; read the files of space and settings.

    Args:
        tree: raw configuration, which is changed.
        folder: folder of the configuration file.

    Returns:
        Problems, one sentence each.
    """
    problems: list[str] = []

    def resolve(section: dict[str, Any], key: str, place: str) -> str:
        try:
            return _resolve(section[key], folder)
        except InputError as error:
            problems.extend(f"{place}{key}: {problem}" for problem in error.problems)
            return str(section[key])

    zoo = tree.setdefault("zoo", Config.model_fields["zoo"].default)
    if isinstance(zoo, str) and zoo and os.path.exists(zoo_folder := folder.absolute() / zoo):  # noqa: PTH110
        tree["zoo"] = str(zoo_folder)
    beton = data.get("beton_folder") if isinstance(data := tree.get("data"), dict) else None
    for place, name in (("zoo", zoo), ("data.beton_folder", beton)):
        if isinstance(name, str) and (problem := _path_problem(folder / name)):
            problems.append(f"{place}: {show(name)} {problem}")
    sections = [("data.", tree.get("data"))]
    sections += [
        (f"networks[{i}].", network) for i, network in enumerate(as_list(tree.get("networks")))
    ]
    for place, section in sections:
        if not isinstance(section, dict):
            continue
        for key in ("path", "weights"):
            name = section.get(key)
            if isinstance(name, str) and name and name not in (*WEIGHTS, FROM_FACTORY):
                section[key] = resolve(section, key, place)
        name = section.get("factory")
        if isinstance(name, str) and is_file(name):
            file, _, function = name.rpartition(":")
            section["factory"] = f"{resolve({'factory': file}, 'factory', place)}:{function}"
    plugins = as_list(tree.get("plugins"))
    for k, name in enumerate(plugins):
        if isinstance(name, str) and is_plugin_file(name):
            plugins[k] = resolve({f"plugins[{k}]": name}, f"plugins[{k}]", "")
    search = tree.get("search")
    if isinstance(search, dict) and isinstance(search.get("enqueue"), str):
        try:
            source = Path(_resolve(search["enqueue"], folder))
            # The folder of an experiment is read when the sweep is prepared.
            search["enqueue"] = str(source) if source.is_dir() else _read_settings(source)
        except InputError as error:
            problems += [f"search.enqueue: {problem}" for problem in error.problems]
            del search["enqueue"]  # validation would report it a second time
    if isinstance(search, dict) and isinstance(search.get("space"), str):
        try:
            search["space"] = read_yaml(Path(_resolve(search["space"], folder)))
        except InputError as error:
            problems += [f"search.space: {problem}" for problem in error.problems]
            del search["space"]  # validation would report it a second time
            search.pop("samples", None)
    return problems


def _resolve(name: str, folder: Path) -> str:
    """Return a path or pattern in the configuration's folder, in the current folder, or unchanged.

    Raises:
        InputError: the name is not allowed, a pattern matches too many places, or the user after `~` is
            unknown.
    """
    try:
        expanded = Path(name).expanduser()
    except RuntimeError:
        raise InputError(f"{show(name)}: there is no such user") from None
    for base in (folder, Path()):
        candidate = base.absolute() / expanded
        if problem := _path_problem(candidate):
            raise InputError(f"{show(name)} {problem}")
        if candidate.exists() or (has_magic(name) and any(True for _ in find(candidate))):
            return str(candidate)
    return name


def _path_problem(path: Path) -> str | None:
    """Return the reason why no file can have this path; None if a file can have it."""
    try:
        path.lstat()
    except ValueError:
        return "contains a character that is not allowed in file names"
    except OSError as error:
        return "is too long for a file name" if error.errno == errno.ENAMETOOLONG else None
    return None


def _is_folder_or_free(path: Path) -> bool:
    return os.path.isdir(path) or not os.path.exists(path)  # noqa: PTH110, PTH112
