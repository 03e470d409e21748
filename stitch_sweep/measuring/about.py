"""What the tables of `measured/` were computed from, to tell which of them no longer hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import read_json
from stitch_sweep.storage.files import write_atomically

NAME = "about.json"


@dataclass
class Entry:
    """What is known of one table.

    Attributes:
        key: digest of what it was computed from: the ledger's id and ended trials.
        rows: how many it has; with 0 there is no file.
        notes: what could not be computed, and why.
        awaits: files that were missing; one that appears makes the table incomplete.
        again: whether to try again in any case, because no new file would show that it may work now.
    """

    key: str
    rows: int = 0
    notes: list[str] = field(default_factory=list)
    awaits: list[str] = field(default_factory=list)
    again: bool = False

    def holds(self, key: str, file: Path, exists: Callable[[str], bool]) -> bool:
        """Whether computing the table again would give the same.

        Args:
            key: digest of what it would be computed from.
            file: of the table.
            exists: says whether a path is there, of those that may be looked at.
        """
        there = self.rows == 0 or file.is_file()
        return self.key == key and there and not self.again and not any(map(exists, self.awaits))


_ENTRIES = TypeAdapter(dict[str, Entry])


def read(folder: Path) -> dict[str, Entry]:
    """The entries by table; those that can't be understood are as if they weren't there."""
    try:
        return _ENTRIES.validate_python(read_json(folder / NAME).get("tables"))
    except (FileNotFoundError, InputError, ValidationError):
        return {}


def write(folder: Path, general: Mapping[str, Any], tables: Mapping[str, Entry]) -> None:
    """Write the entries, beside plain data that says where and by what they were computed."""
    content = {**general, "tables": {name: asdict(tables[name]) for name in sorted(tables)}}
    write_atomically(folder / NAME, (json.dumps(content, indent=1) + "\n").encode())
