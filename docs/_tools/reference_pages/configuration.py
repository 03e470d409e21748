"""The page of the configuration: every key of every section, from the pydantic models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from reference_pages.docstrings import read_docstring
from reference_pages.markdown import anchor, code, page, table
from reference_pages.options import built_in_names
from reference_pages.types import describe_type
from stitch_sweep.config import root
from stitch_sweep.config.components import Component
from stitch_sweep.config.include import MOST_FILES
from stitch_sweep.config.root import Config
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.config.yaml_text import DEEPEST, LARGEST_FILE, MOST_VALUES
from stitch_sweep.core import bounds
from stitch_sweep.core.registry import DATASETS, FAMILIES, LOSSES, STITCHES

Model = type[BaseModel]

TOPICS = {
    "Short forms": "stitch_sweep.config.shorthand",
    "Numbers and text": "stitch_sweep.config.yaml_text",
    "Include other files": "stitch_sweep.config.include",
    "Plugins": "stitch_sweep.config.plugins",
    "Paths": "stitch_sweep.config.places",
    "Override keys": "stitch_sweep.config.paths",
    "Changes before a resume": "stitch_sweep.sweep.description",
}
"""Sections of the page that are the docstring of a module."""

_NAMES = {
    STITCHES: "[stitches](stitches.md)",
    LOSSES: "[losses](losses.md)",
    FAMILIES: "[network families](networks_and_data.md#network-families)",
    DATASETS: "[data sets](networks_and_data.md#data-sets)",
}


@dataclass(frozen=True)
class Section:
    """A section of a configuration.

    Attributes:
        path: its dotted path; `networks[]` for the entries of a list.
        model: its pydantic model.
    """

    path: str
    model: Model


def make_page(config: Model = Config) -> str:
    """Make the page; `config` is the model of the whole file."""
    sections = list(list_sections(config))
    headings = {section.model: section.path for section in sections}
    headings |= {m: k for k in order(config) for m in models_in(config.model_fields[k])}
    blocks = [*_describe(root), "## Top level", describe_keys(config, headings)]
    for section in sections:
        level = "###" if "." in section.path else "##"
        blocks.append(f"{level} `{section.path}`")
        blocks += _describe(section.model)
        blocks.append(describe_keys(section.model, headings))
        if issubclass(section.model, Component):
            registry = section.model.registry
            kind = (
                "losses" if section.model.name_is_key else f"values of `{section.model.name_field}`"
            )
            names = ", ".join(f"`{name}`" for name in built_in_names(registry))
            blocks.append(
                f"Built-in {kind}: {names}. The page of {_NAMES[registry]} lists their options."
            )
    for title, module in TOPICS.items():
        blocks += [f"## {title}", *_describe(import_module(module))]
    blocks += ["## Limits", _limits()]
    return page("Configuration", *blocks, source="the Pydantic classes in `stitch_sweep/config/`")


def list_sections(config: Model) -> Iterator[Section]:
    """List every section once: those of the top level in the order of the file, with their parts."""
    top = {key: model for key in order(config) for model in models_in(config.model_fields[key])}
    owners: dict[Model, str] = {model: key for key, model in reversed(top.items())}
    for key in reversed(list(top)):
        _claim(top[key], key, owners)
    for key, model in top.items():
        if owners[model] == key:
            yield from _list_parts(model, key, owners)


def _claim(model: Model, path: str, owners: dict[Model, str]) -> None:
    for key, field in model.model_fields.items():
        for part in models_in(field):
            if part not in owners:
                owners[part] = path if key == "root" else f"{path}.{key}"
                _claim(part, owners[part], owners)


def _list_parts(model: Model, path: str, owners: dict[Model, str]) -> Iterator[Section]:
    if "root" not in model.model_fields:
        yield Section(path, model)
    for key, field in model.model_fields.items():
        for part in models_in(field):
            place = path if key == "root" else f"{path}.{key}"
            if owners[part] == place and part is not model:
                yield from _list_parts(part, place, owners)


def order(config: Model) -> list[str]:
    """Return the keys of the top level in the order of the file."""
    trial = list(TrialSettings.model_fields)
    others = [key for key in config.model_fields if key not in trial]
    place = others.index("controls") + 1
    return [*others[:place], *trial, *others[place:]]


def models_in(field: FieldInfo) -> list[Model]:
    """Return the models that an annotation contains."""
    return list(_find_models(field.annotation))


def _find_models(annotation: Any) -> Iterator[Model]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _find_models(argument)


def describe_keys(model: Model, headings: dict[Model, str]) -> str:
    """Describe the keys of a model as a table."""
    schema = model.model_json_schema()["properties"]
    keys = order(model) if issubclass(model, Config) else list(model.model_fields)
    if issubclass(model, Component) and model.name_is_key:
        keys.remove(model.name_field)
    rows = []
    for key in keys:
        field = model.model_fields[key]
        text, default = _split_default(field)
        kind = describe_type(schema[key])
        for part in models_in(field):
            path = headings.get(part)
            if path is not None:
                kind = re.sub(r"\bsections?\b", rf"[\g<0>](#{anchor(path)})", kind, count=1)
        rows.append((f"`{key}`", kind, default, text))
    return table(["key", "value", "default", "meaning"], rows)


def _split_default(field: FieldInfo) -> tuple[str, str]:
    """Split a description into its meaning, and its default where words say more than the value."""
    text = field.description or ""
    if worded := re.search(r" Default: ([^.]+(?:\.(?! )[^.]+)*)\.(?= |$)", f" {text}"):
        rest = f" {text}".replace(worded[0], "").strip()
        return rest, worded[1]
    if field.is_required():
        return text, "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        given = value.model_dump(exclude_defaults=True)
        if isinstance(value, Component):
            given = {value.name_field: getattr(value, value.name_field)}
        return text, code(given) if given else "its defaults"
    if value is None or value in ([], {}):
        return text, "none"
    return text, code(value)


def _describe(module: Any) -> list[str]:
    documented = read_docstring(module)
    return [documented.summary, *documented.text]


def _limits() -> str:
    """Make the table of limits that no key's range says."""
    rows = [
        (
            "a YAML file",
            f"{LARGEST_FILE // 2**20} MiB; {MOST_VALUES:,} values, with aliases expanded; "
            f"{DEEPEST} levels",
        ),
        ("included files", f"{MOST_FILES}"),
        ("a sweep", f"{bounds.MOST_STUDIES:,} studies and {bounds.MOST_TRIALS:,} trials"),
        ("combinations of crossed values", f"{bounds.MOST_COMBINATIONS:,}"),
        (
            "values of one crossed or searched setting, or of a condition",
            f"{bounds.MOST_CHOICES:,}",
        ),
        (
            "crossed and searched values, and pairs of these values, that are checked before a sweep",
            f"{bounds.MOST_CHECKS:,}",
        ),
        ("steps between `low` and `high`", f"{bounds.LARGEST_COUNT:,}"),
        ("lists of layers", f"{bounds.LONGEST_LIST:,} entries"),
        (
            "arguments of optimizers, samplers and schedulers",
            f"{bounds.LARGEST_NUMBER:,} in magnitude",
        ),
        ("parameters and buffers of a network of a family", f"{bounds.MOST_PARAMETERS:,} values"),
        (
            "parameters and buffers of an external network",
            f"{bounds.MOST_EXTERNAL_PARAMETERS:,} values",
        ),
        ("paths", f"{bounds.LONGEST_TEXT:,} characters"),
    ]
    return "\n\n".join(
        [
            "Stitch Sweep refuses a value beyond a limit before it uses time or memory, and prints the "
            "path of the value and the limit. The tables above contain the ranges of single keys; this "
            "table contains the other limits. In a grid, only combinations that meet the `when` "
            "conditions count.",
            table(["value", "limit"], rows),
        ]
    )
