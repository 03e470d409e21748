"""Names of files and classes in messages, and checks of paths."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from stitch_sweep.core.untrusted import printable

_MAX_NAMES = 3  # a note lists this many names, and counts the others


def join_names(names: Iterable[str], limit: int = _MAX_NAMES) -> str:
    """Join the first `limit` names, and state the number of the others.

    Example:
        >>> join_names(["a", "b", "c", "d"], 2)
        'a, b and 2 more'
    """
    names = list(map(printable, names))
    others = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + others


def normalize_name(name: str) -> str:
    """Return a class name in Unicode form NFC: file systems store `é` in one of two forms."""
    return unicodedata.normalize("NFC", name)


def explain_unusable(path: Path) -> str | None:
    """Return the reason why a path is not a regular file, such as "is a folder"; None for a regular file.

    Symbolic links are followed.
    """
    try:
        if path.is_file():
            return None
        if path.is_dir():
            return "is a folder"
        if path.is_symlink():
            path.stat()  # raises the reason why the link leads nowhere
    except FileNotFoundError:
        return f"is a symbolic link to {printable(path.readlink())}, which does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "is not a regular file"
