"""Describe the exceptions that code from outside of Stitch Sweep raises."""

from __future__ import annotations

import traceback
from pathlib import Path


def describe_error(error: BaseException) -> str:
    """Return an exception's type, first line, and the last line of code outside of Stitch Sweep."""
    package = Path(__file__).parents[1].as_posix()
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((package, "<frozen "))
    ]
    place = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    reason = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {reason}{place}"
