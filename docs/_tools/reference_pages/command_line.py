"""The page of the command line: commands, arguments and options, from typer's declarations."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import typer

from reference_pages.docstrings import read_docstring
from reference_pages.markdown import page, table
from stitch_sweep.cli import main

_KINDS = {str: "text", int: "whole number", float: "number", Path: "path", bool: "flag"}


@dataclass(frozen=True)
class Parameter:
    """An argument or an option of a command.

    Attributes:
        name: its name on the command line.
        info: typer's declaration.
        kind: its type.
        default: its default; `inspect.Parameter.empty` if it has none.
        is_repeatable: whether it takes several values.
    """

    name: str
    info: Any
    kind: type
    default: Any
    is_repeatable: bool

    @property
    def is_argument(self) -> bool:
        """Whether it is an argument, which has no name on the command line."""
        return isinstance(self.info, typer.models.ArgumentInfo)

    @property
    def value(self) -> str:
        """Its allowed values in words."""
        if self.kind is bool:
            return "flag"
        if self.info.metavar and not self.is_argument:
            return f"`{self.info.metavar}`"
        word, low, high = _KINDS[self.kind], self.info.min, self.info.max
        if low is not None and high is not None:
            return f"{word} from {low:,} to {high:,}"
        return word if low is None else f"{word} of at least {low:,}"

    @property
    def default_text(self) -> str:
        """Its default in words."""
        if "Default: " in self.info.help:
            return str(self.info.help).partition("Default: ")[2].rstrip(".")
        if self.default is inspect.Parameter.empty:
            return "required"
        if self.kind is bool:
            return "off"
        return "none" if self.default is None else f"`{self.default}`"

    @property
    def meaning(self) -> str:
        """Its help without the default."""
        return str(self.info.help).partition("Default: ")[0].strip()


def make_page() -> str:
    """Make the page."""
    documented = read_docstring(main)
    commands = list(list_commands(main.app, "stitch-sweep"))
    blocks = [documented.summary, *documented.text, "## Commands"]
    rows = [
        (f"[`{name}`](#{name.replace(' ', '-')})", read_docstring(command).summary)
        for name, command in commands
    ]
    blocks.append(table(["command", "purpose"], rows))
    blocks.append("`stitch-sweep --version` prints the version, and `COMMAND --help` the options.")
    for name, command in commands:
        blocks += [f"## `{name}`", *_describe(name, command)]
    return page("Command line", *blocks, source="the commands in `stitch_sweep/cli/`")


def list_commands(app: typer.Typer, path: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """List the commands of a program with their full names; groups come last."""
    for command in app.registered_commands:
        if command.callback is not None and not command.hidden:
            yield f"{path} {command.name or command.callback.__name__}", command.callback
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from list_commands(group.typer_instance, f"{path} {group.name}")


def list_parameters(command: Callable[..., Any]) -> Iterator[Parameter]:
    """List the arguments and options of a command that help shows, arguments first."""
    hints = typing.get_type_hints(command, include_extras=True)
    shown = []
    for key, parameter in inspect.signature(command).parameters.items():
        annotation, info = get_args(hints[key])[:2]
        types = [t for t in (annotation, *get_args(annotation)) if t is not type(None)]
        is_list = any(typing.get_origin(t) is list for t in types)
        kinds = [t for t in [*types, *(a for t in types for a in get_args(t))] if t in _KINDS]
        # Typer stores the first name of an annotated option as its default.
        names = (info.default, *(info.param_decls or ()))
        long_names = [n for n in names if isinstance(n, str) and n.startswith("--")]
        is_argument = isinstance(info, typer.models.ArgumentInfo)
        name = info.metavar or key.upper() if is_argument else f"--{key.replace('_', '-')}"
        if not info.hidden:
            name = long_names[0] if long_names else name
            shown.append(Parameter(name, info, kinds[0], parameter.default, is_list))
    yield from sorted(shown, key=lambda parameter: not parameter.is_argument)


def _describe(name: str, command: Callable[..., Any]) -> Iterator[str]:
    documented = read_docstring(command)
    parameters = list(list_parameters(command))
    words = [_usage(p) for p in parameters if p.is_argument]
    words += [f"{p.name} {p.info.metavar or 'VALUE'}" for p in parameters if _is_needed(p)]
    has_options = any(not p.is_argument for p in parameters)
    yield documented.summary
    yield from documented.text
    yield f"```text\n{' '.join([name, *words, *(['[OPTIONS]'] if has_options else [])])}\n```"
    yield table(
        ["argument or option", "value", "default", "meaning"],
        [(f"`{p.name}`", p.value, p.default_text, p.meaning) for p in parameters],
    )


def _is_needed(parameter: Parameter) -> bool:
    return not parameter.is_argument and parameter.default is inspect.Parameter.empty


def _usage(parameter: Parameter) -> str:
    word = parameter.name + ("..." if parameter.is_repeatable else "")
    return word if parameter.default is inspect.Parameter.empty else f"[{word}]"
