"""Read a configuration file, and find every problem that can be found before anything starts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from stitch_sweep.config.models import FROM_FACTORY, WEIGHTS, Config, is_file
from stitch_sweep.config.paths import as_list, assign
from stitch_sweep.config.space import search_problems
from stitch_sweep.errors import InputError
from stitch_sweep.problems import describe_problems, show


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
    try:
        _find_files(tree, path.parent)
    except InputError as error:
        problems += [f"{path}: search.space: {problem}" for problem in error.problems]
        del tree["search"]["space"]  # or it would be reported twice
        tree["search"].pop("samples", None)
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
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, a YAML file is wanted") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a text file (UTF-8), a YAML file is wanted") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: can't be read ({reason})") from None
    try:
        tree = yaml.load(text, Loader=_Loader)
        json.dumps(tree)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{path}: {where}is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is not YAML of plain values: {reason}") from None
    if tree is None:
        raise InputError(f"{path}: is empty")
    if not isinstance(tree, dict):
        raise InputError(f"{path}: wants key: value pairs, got {show(tree)}")
    return tree


def parse_value(text: str) -> Any:
    """One value written as in a YAML file, for `--set`."""
    try:
        value = yaml.load(text, Loader=_Loader)
        json.dumps(value)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return text
    return value


def to_yaml(config: BaseModel) -> str:
    """A configuration as YAML text that reads back equal."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text


def _find_files(tree: dict[str, Any], folder: Path) -> None:
    """Put found paths, and what a space file holds, in the place of paths, where there are any.

    Raises:
        InputError: the space file can't be read.
    """
    zoo = tree.setdefault("zoo", Config.model_fields["zoo"].default)
    if isinstance(zoo, str) and zoo and (beside := folder.absolute() / zoo).exists():
        tree["zoo"] = str(beside)
    for section in [tree.get("data"), *as_list(tree.get("networks"))]:
        for key in ("path", "weights"):
            name = section.get(key) if isinstance(section, dict) else None
            if isinstance(name, str) and name and name not in (*WEIGHTS, FROM_FACTORY):
                section[key] = _found(name, folder)
        name = section.get("factory") if isinstance(section, dict) else None
        if isinstance(name, str) and is_file(name):
            file, _, function = name.rpartition(":")
            section["factory"] = f"{_found(file, folder)}:{function}"
    search = tree.get("search")
    if isinstance(search, dict) and isinstance(search.get("space"), str):
        search["space"] = read_yaml(Path(_found(search["space"], folder)))


def _found(name: str, folder: Path) -> str:
    """A path or pattern beside the configuration, else in the current folder, else as it stands."""
    for base in (folder, Path()):
        candidate = base.absolute() / Path(name).expanduser()
        if candidate.exists() or (has_magic(name) and glob(str(candidate))):  # noqa: PTH207
            return str(candidate)
    return name


def _is_folder_or_free(path: Path) -> bool:
    return path.is_dir() or not path.exists()


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-3` is a number, and a key given twice is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own attribute)
        # Dates stay text: nothing here is one.
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag not in {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}:
                shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                problem = f"the key {shown} is not text; quotes make it text"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
