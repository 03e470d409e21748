"""Call what makes a network, and say in a sentence what went wrong."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from stitch_sweep.bounds import MOST_EXTERNAL_PARAMETERS
from stitch_sweep.errors import InputError
from stitch_sweep.models.parts import limited_size

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def call(make: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> nn.Module:
    """What a factory makes of its arguments.

    Raises:
        InputError: it raises something, or what it returns is no module.
    """
    try:
        with limited_size(name, MOST_EXTERNAL_PARAMETERS):
            made = make(**arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a factory is anybody's code
        raise InputError(f"{name} could not be made: {what_went_wrong(error)}") from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{name} returned a {type(made).__name__}, not a torch.nn.Module")
    return made


def what_went_wrong(error: BaseException) -> str:
    """Type and first line of an error, and the line of code outside of our own that raised it."""
    ours = Path(__file__).parents[1].as_posix()
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)
    ]
    at = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    reason = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {reason}{at}"


@contextmanager
def weights_only(what: str) -> Iterator[None]:
    """Have torch.load read weights and nothing else, whoever calls it.

    Raises:
        InputError: what was to be loaded could not be.
    """
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    except InputError as error:
        raise InputError(*(f"{what}: {problem}" for problem in error.problems)) from None
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
