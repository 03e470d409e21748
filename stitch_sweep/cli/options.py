"""Arguments and options that several commands share, and the settings behind them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stitch_sweep.core.errors import InputError

if TYPE_CHECKING:
    from stitch_sweep.config.root import Config

ConfigFile = Annotated[
    Path, typer.Argument(help="A YAML file; see docs/reference/configuration.md.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override one key; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
PairOption = Annotated[
    str | None,
    typer.Option(help="SENDER:LAYER,RECEIVER:LAYER. Default: the middle layers of the first pair."),
]
RunCode = Annotated[
    bool,
    typer.Option(
        "--run-code",
        help="Run the plugins and the networks with `source: python` that the folder names.",
    ),
]
Allow = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FOLDER",
        help="Also read networks and images below this folder; repeatable.",
    ),
]
Download = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LIBRARY",
        help="Also load published weights of torchvision or timm; repeatable.",
    ),
]


def read_with_overrides(path: Path, overrides: list[str] | None) -> Config:
    """Read a configuration file and apply the values of `--set`.

    Raises:
        InputError: the file or a value is wrong.
    """
    from stitch_sweep.config.reading import read_config

    return read_config(path, parse_assignments(overrides, "--set"))


def parse_assignments(texts: list[str] | None, option: str) -> dict[str, Any]:
    """Parse texts of the form `a.b=value`; values are YAML.

    Args:
        texts: the values of a repeatable option.
        option: the option's name, for messages.

    Returns:
        Value by dotted path.

    Raises:
        InputError: one problem per text that cannot be parsed.
    """
    from stitch_sweep.config.reading import parse_value
    from stitch_sweep.core.credentials import redact

    values: dict[str, Any] = {}
    problems = []
    for text in texts or []:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            problems.append(f"{option} {redact(text)}: write it as a.b=value")
            continue
        try:
            values[key] = parse_value(value)
        except InputError as error:
            problems += [f"{option} {key}: {problem}" for problem in error.problems]
    if problems:
        raise InputError(*problems)
    return values
