"""Reading of a configuration file, with all problems that can be found before anything starts."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Mapping
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stitch_sweep.config.data import DataConfig
from stitch_sweep.config.include import read_with_includes
from stitch_sweep.config.networks import weights_kind
from stitch_sweep.config.paths import assign
from stitch_sweep.config.places import (
    Places,
    absolute,
    expand_variables,
    has_variables,
    is_fixed,
    misplaced_variables,
    path_values,
    split_factory,
)
from stitch_sweep.config.plugins import load_plugins
from stitch_sweep.config.root import Config
from stitch_sweep.config.shorthand import lengthen_sections
from stitch_sweep.config.space import search_problems
from stitch_sweep.config.yaml_text import LARGEST_FILE, dump, parse
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.patterns import find
from stitch_sweep.core.problems import describe_problems, mismatch, show
from stitch_sweep.core.untrusted import read_file

_SETTING_FILES = ("search.space", "search.enqueue")
"""Keys of files whose content takes their place."""
_CREATED = ("zoo", "beton_folder", "tensorboard")
"""Keys of folders that Stitch Sweep creates if they are missing."""


def read_config(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and validate a configuration file; the plugins that it names are run.

    Args:
        path: a YAML file. Relative paths in it are looked up in its folder first, then in the root of
            its project; see `places`.
        overrides: {dotted path: value}, as given by `--set`. They are read as if they stood in the file.

    Raises:
        InputError: all problems, one sentence each.
    """
    tree, places = read_tree(Path(path))
    problems = []
    for key, value in (overrides or {}).items():
        try:
            assign(tree, key, value)
        except InputError as error:
            problems += [f"--set {problem}" for problem in error.problems]
    try:
        config = make_config(tree, places, f"{path}: ")
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(*problems)
    return config


def read_tree(path: Path) -> tuple[dict[str, Any], Places]:
    """Read a configuration file with the files that it includes, without validation.

    Returns:
        The content with long forms, and the places of the configuration.

    Raises:
        InputError: a file can't be read.
    """
    places = Places.of_folder(path.parent)
    tree = read_with_includes(path, read_yaml, partial(_resolve_paths, places=places))
    return lengthen_sections(tree), places


def make_config(tree: dict[str, Any], places: Places, prefix: str = "") -> Config:
    """Validate a configuration of plain data; the plugins that it names are run.

    Args:
        tree: the content of a file, which may be changed.
        places: folders in which relative paths are looked up.
        prefix: text before each problem.

    Raises:
        InputError: all problems, one sentence each.
    """
    tree = lengthen_sections(tree)
    problems = _complete_paths(tree, places)
    try:
        load_plugins(tree)
    except InputError as error:  # names of its objects would be reported as unknown
        problems += error.problems
        raise InputError(*(f"{prefix}{problem}" for problem in problems)) from error
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems += describe_problems(error, Config)
    else:
        config.set_places(places)
        problems += search_problems(config)
        if not _is_folder_or_free(Path(config.zoo)):
            problems.append(f"zoo: {config.zoo} is a file, expected a folder")
    if problems:
        raise InputError(*(f"{prefix}{problem}" for problem in problems))
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


def to_yaml(config: Config, folder: Path | None = None) -> str:
    """Return a configuration as YAML text. Reading the text gives an equal configuration.

    Args:
        config: the configuration.
        folder: in which the text will be stored: paths within the project are written relative to it,
            so that the project can be moved.
    """
    tree = config.model_dump(mode="json")
    config.places.to_portable(tree, folder)
    return dump(tree)


def _complete_paths(tree: dict[str, Any], places: Places) -> list[str]:
    """Resolve the paths in a raw configuration in place, and read the files of space and settings.

    Args:
        tree: raw configuration, which is changed.
        places: of the configuration.

    Returns:
        Problems, one sentence each.
    """
    tree.setdefault("zoo", Config.model_fields["zoo"].default)
    data = tree.get("data")
    if isinstance(data, dict) and data.get("loader") == "ffcv":
        data.setdefault("beton_folder", DataConfig.model_fields["beton_folder"].default)
    problems = [*misplaced_variables(tree), *_resolve_paths(tree, places.folder, places)]
    for section, key, location in list(path_values(tree)):
        if key == "beton_folder" and section.get("loader") != "ffcv":
            continue  # it isn't used, and a default that is written reads as the default
        try:
            if key in _CREATED and not has_variables(section[key]):
                located = str(places.locate(section[key]))
                if section[key] in places.written:
                    places.written[located] = places.written[section[key]]
                section[key] = located
            elif location in _SETTING_FILES and not has_variables(section[key]):
                section[key] = _read_setting_file(key, Path(section[key]))
        except InputError as error:
            problems += [f"{location}: {problem}" for problem in error.problems]
    for key in ("space", "enqueue"):
        if any(problem.startswith(f"search.{key}: ") for problem in problems):
            del tree["search"][key]  # validation would report it a second time
            if key == "space":
                tree["search"].pop("samples", None)
    return problems


def _read_setting_file(key: str, path: Path) -> Any:
    """Read the file of `search.space` or `search.enqueue`.

    The folder of an experiment, which `enqueue` may name, is read when the sweep is prepared.

    Raises:
        InputError: the file can't be read.
    """
    if key == "space":
        return read_yaml(path)
    return str(path) if path.is_dir() else _read_settings(path)


def _resolve_paths(tree: dict[str, Any], folder: Path, places: Places) -> list[str]:
    """Expand the environment variables in paths, and make the paths of existing files absolute, in place.

    Args:
        tree: raw configuration, which is changed.
        folder: folder of the file that contains the paths.
        places: of the configuration, which may include this file.

    Returns:
        Problems, one sentence each.
    """
    problems: list[str] = []
    for section, key, location in list(path_values(tree)):
        written = section[key]
        try:
            expanded = expand_variables(written)
            if key == "uri":
                continue  # it may contain a password: only MLflow gets the expanded address
            name, colon, function = split_factory(key, expanded)
            resolved = _resolve(name, folder, places, is_created=key in _CREATED)
            is_name = key == "weights" and weights_kind(expanded) == "named"
            if folder == places.folder and not is_name and key not in _CREATED:
                resolved = str(places.root / Path(resolved).expanduser())
        except InputError as error:
            problems.extend(f"{location}: {problem}" for problem in error.problems)
            continue
        text = split_factory(key, written)[0]
        if has_variables(text) or (folder == places.folder and not Path(text).is_absolute()):
            places.written[resolved] = text
        section[key] = f"{resolved}{colon}{function}"
    return problems


def _resolve(name: str, folder: Path, places: Places, *, is_created: bool) -> str:
    """Return the absolute path of a file, folder or pattern; unchanged if it isn't found.

    Args:
        name: as the file has it.
        folder: of the file that has it.
        places: of the configuration.
        is_created: whether Stitch Sweep creates the folder if it is missing. Only a name that is fixed
            to the file's folder is resolved then; `Places.locate` resolves others.

    Raises:
        InputError: the name is not allowed, a pattern matches too many places, or the user after `~` is
            unknown.
    """
    try:
        expanded = Path(name).expanduser()
    except RuntimeError:
        raise InputError(f"{show(name)}: there is no such user") from None
    if is_created:
        if problem := _path_problem(folder / expanded):
            raise InputError(f"{show(name)} {problem}")
        return str(absolute(folder / expanded)) if is_fixed(name) else str(expanded)
    for base in (folder,) if is_fixed(name) else (folder, places.root):
        candidate = base.absolute() / expanded
        if problem := _path_problem(candidate):
            raise InputError(f"{show(name)} {problem}")
        if candidate.exists() or (has_magic(name) and any(True for _ in find(candidate))):
            return str(absolute(candidate))
    return str(absolute(folder / expanded)) if is_fixed(name) else name


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
