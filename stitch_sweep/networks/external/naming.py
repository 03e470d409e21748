"""Make an untrained network from its name, as the command line takes it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from stitch_sweep.config.networks import LIBRARIES, is_file
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.external import python
from stitch_sweep.networks.external.factories import call_factory
from stitch_sweep.networks.external.libraries import find_library
from stitch_sweep.networks.families.building import build, resolve


def build_by_name(
    name: str,
    channels: int,
    classes: int,
    arguments: Mapping[str, Any] | None = None,
    *,
    width: int | None = None,
    image_size: int = 32,
) -> nn.Module:
    """Make an untrained network; its weights come from torch's global generator.

    Args:
        name: `torchvision:NAME`, `timm:NAME`, a factory (`package.module:function`, `./mine.py:make`),
            which is run, or a name of a built-in family (see `networks.families.building.resolve`).
        channels: channels of the image, for built-in families.
        classes: length of the logits; a factory does not get it.
        arguments: further arguments of the function that makes the network; options of built-in families.
        width: width of a network of a built-in family; by default the family's default.
        image_size: pixels on a side, for built-in families.

    Raises:
        InputError: no network has that name, or it can't be made.
    """
    given = dict(arguments or {})
    source, _, rest = name.partition(":")
    if is_file(f"{name}:") and not rest:
        raise InputError(
            f"{name}: name a function of the file: {name.rstrip(':')}:{_list_functions(source)}"
        )
    if not rest:
        family, options = resolve(name)
        own_width = {} if width is None else {"width": width}
        options = {**options, **own_width, **given}
        return build(family, channels, classes, options, image_size=image_size)
    if width is not None:
        raise InputError(f"--width: {name} has no width; pass its arguments with --argument")
    if source in LIBRARIES:
        return find_library(source).build(rest, {"num_classes": classes, **given})
    try:
        factory = python.find(name)
    except InputError as error:
        close = get_close_matches(source, LIBRARIES, n=1)
        hint = f"did you mean '{close[0]}:{rest}'? " if close else ""
        raise InputError(*(hint + problem for problem in error.problems)) from error
    return call_factory(factory, given, name)


def _list_functions(file: str) -> str:
    """Return the names of the functions in a file, without running it."""
    try:
        body = ast.parse(Path(file).read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError):
        body = []
    names = [item.name for item in body if isinstance(item, ast.FunctionDef | ast.ClassDef)]
    return " or ".join(names[:5]) or "NAME"
