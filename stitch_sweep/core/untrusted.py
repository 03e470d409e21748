"""Files and texts from unknown sources: bounded reading, and text that is safe to print."""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stitch_sweep.core.errors import InputError

MIB = 2**20
LARGEST_JSON = 64 * MIB
"""Largest JSON file that is read, in bytes. The record of a trial with a million test images fits."""

# Unicode categories of characters that move the cursor, color the terminal, or reverse the text
# direction.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# A spreadsheet treats a cell that begins with one of these characters as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class UnreadableFileError(InputError):
    """A file exists but cannot be used.

    Args:
        path: the file.
        reason: what is wrong with it, such as "is a folder, expected a file".
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def read_file(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Pipes and devices are refused without waiting for data.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableFileError: not a regular file, larger than `limit`, or the system refuses to read it.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:  # refuses a folder
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableFileError(path, "is not a regular file")
            # In pieces, because reading `limit` bytes at once would allocate that much memory.
            data = b"".join(iter(lambda: file.read(min(MIB, limit + 1 - file.tell())), b""))
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise UnreadableFileError(path, "is a folder, expected a file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableFileError(path, f"cannot be read ({reason})") from None
    if len(data) > limit:
        raise UnreadableFileError(path, f"is larger than {size(limit)}, the largest size allowed")
    return data


def read_json(path: Path, limit: int = LARGEST_JSON) -> dict[str, Any]:
    """Read a file that contains one JSON object.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableFileError: see `read_file`; or the content is not one JSON object in UTF-8.
    """
    return parse_json(read_file(path, limit), path)


def parse_json(data: bytes | str, source: Path | str) -> dict[str, Any]:
    """Parse one JSON object.

    Args:
        data: UTF-8 text.
        source: name of the data in messages, such as a path.

    Raises:
        UnreadableFileError: not JSON, nested too deeply, contains NaN or Infinity, or is not an object.
    """
    try:
        content = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise UnreadableFileError(source, "is JSON that is nested too deeply") from None
    except ValueError:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise UnreadableFileError(source, "is not valid JSON") from None
    if not isinstance(content, dict):
        raise UnreadableFileError(source, "is JSON, but not an object")
    return content


def printable(text: object) -> str:
    r"""Escape the characters of a text that control a terminal.

    Example:
        >>> printable("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    return "".join(
        character.encode("unicode_escape", "backslashreplace").decode()
        if unicodedata.category(character) in _UNSAFE
        else character
        for character in str(text)
    )


def list_briefly(names: Sequence[str], most: int = 3) -> str:
    """Join the first names of a list for a message, and count the others.

    Example:
        >>> list_briefly(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


def spreadsheet_cell(value: Any) -> Any:
    """Return a value for a CSV table, with a quote before text that a spreadsheet would run as a formula.

    Example:
        >>> spreadsheet_cell("=1+1"), spreadsheet_cell(-1.5)
        ("'=1+1", -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def size(count: int) -> str:
    """Format a number of bytes: `size(64 * MIB)` is `64 MiB`."""
    return f"{count / MIB:g} MiB" if count >= MIB else f"{count} bytes"


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
