"""Files and texts that somebody else may have written: bounded reading, and text that is safe to show."""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from pathlib import Path
from typing import Any

from stitch_sweep.core.errors import InputError

MIB = 2**20
LARGEST_JSON = 64 * MIB
"""Bytes of the largest JSON file that is read: the record of a trial with a million images fits."""

# Characters that move the cursor, color the terminal, or reverse the direction of text.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class UnreadableFileError(InputError):
    """A file that exists but cannot be used.

    Args:
        path: the file.
        reason: what is wrong with it, as in "is a folder, a file is wanted".
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def read_file(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    A pipe or a device is refused without waiting for data.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: not a regular file, larger than `limit`, or the system refuses to read it.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:  # refuses a folder
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableFileError(path, "is not a regular file")
            # In pieces: a reading of `limit` bytes would take that much memory first.
            data = b"".join(iter(lambda: file.read(min(MIB, limit + 1 - file.tell())), b""))
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise UnreadableFileError(path, "is a folder, a file is wanted") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableFileError(path, f"cannot be read ({reason})") from None
    if len(data) > limit:
        raise UnreadableFileError(path, f"is larger than {size(limit)}, the most that is read")
    return data


def read_json(path: Path, limit: int = LARGEST_JSON) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: see `read_file`; or the content is not one JSON object in UTF-8.
    """
    return parse_json(read_file(path, limit), path)


def parse_json(data: bytes | str, source: Path | str) -> dict[str, Any]:
    """Parse one JSON object.

    Args:
        data: UTF-8 text.
        source: what messages call it: a path, say.

    Raises:
        UnreadableFileError: not JSON, nested too deeply, with NaN or Infinity, or not an object.
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
    r"""Text without characters that control a terminal: each is replaced by its escape.

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


def spreadsheet_cell(value: Any) -> Any:
    """A value for a CSV table: text that a spreadsheet would run as a formula gets a leading quote.

    Example:
        >>> spreadsheet_cell("=1+1"), spreadsheet_cell(-1.5)
        ("'=1+1", -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def size(count: int) -> str:
    """A number of bytes for people: `size(64 * MIB)` is `64 MiB`."""
    return f"{count / MIB:g} MiB" if count >= MIB else f"{count} bytes"


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
