"""A network called by one name, as on the command line."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from stitch_sweep.config.models import is_file
from stitch_sweep.core.errors import InputError
from stitch_sweep.networks.external import building, python, timm, torchvision
from stitch_sweep.networks.families.building import build, resolve


def by_name(
    name: str,
    channels: int,
    classes: int,
    arguments: Mapping[str, Any] | None = None,
    *,
    width: int | None = None,
    image_size: int = 32,
) -> nn.Module:
    """An untrained network; its weights come from torch's global generator.

    Args:
        name: `torchvision:NAME`, `timm:NAME`, a factory (`package.module:function`, `./mine.py:make`),
            which is run, or a name of a built-in family (see `networks.families.building.resolve`).
        channels: of the image, for our own families.
        classes: length of the logits; a factory is not told.
        arguments: what else the function that makes it is given; options for our own families.
        width: for our own families; the family's own if not given.
        image_size: pixels on a side, for our own families.

    Raises:
        InputError: no network is called so, or it can't be made.
    """
    given = dict(arguments or {})
    source, _, rest = name.partition(":")
    if is_file(f"{name}:") and not rest:
        raise InputError(
            f"{name}: a file's function is wanted, {name.rstrip(':')}:{_function(source)}"
        )
    if not rest:
        family, options = resolve(name)
        wide = {} if width is None else {"width": width}
        return build(family, channels, classes, {**options, **wide, **given}, image_size=image_size)
    if width is not None:
        raise InputError(f"--width: {name} has none; what it takes is given by --argument")
    if source == "torchvision":
        return torchvision.build(rest, {"num_classes": classes, **given})
    if source == "timm":
        return timm.build(rest, {"num_classes": classes, **given})
    try:
        factory = python.find(name)
    except InputError as error:
        close = get_close_matches(source, ("torchvision", "timm"), n=1)
        hint = f"did you mean '{close[0]}:{rest}'? " if close else ""
        raise InputError(*(hint + problem for problem in error.problems)) from error
    return building.call(factory, given, name)


def _function(file: str) -> str:
    """Names of the functions in a file, which is not run."""
    try:
        body = ast.parse(Path(file).read_text()).body
    except (OSError, ValueError, SyntaxError):
        body = []
    names = [item.name for item in body if isinstance(item, ast.FunctionDef | ast.ClassDef)]
    return " or ".join(names[:5]) or "NAME"
