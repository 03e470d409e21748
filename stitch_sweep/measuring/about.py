"""`about.json` of the folder `measured/`: the origin of each table, to find outdated ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import list_briefly, read_json
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.layout import MEASURED_ABOUT


@dataclass
class TableOrigin:
    """The origin of one table.

    Attributes:
        key: digest of the table's inputs: the ledger's id and the ended trials.
        rows: number of rows; an empty table has no file.
        notes: the results that could not be computed, and the reasons.
        awaits: missing files; the table is incomplete as soon as one of them exists.
        again: whether to compute the table again in any case, because no new file would show that
            the computation may now succeed.
    """

    key: str
    rows: int = 0
    notes: list[str] = field(default_factory=list)
    awaits: list[str] = field(default_factory=list)
    again: bool = False

    def is_current(self, key: str, file: Path, exists: Callable[[str], bool]) -> bool:
        """Return whether computing the table again would give the same content.

        Args:
            key: digest of the current inputs.
            file: the table's file.
            exists: returns whether a path exists, among those that may be read.
        """
        has_file = self.rows == 0 or file.is_file()
        return self.key == key and has_file and not self.again and not any(map(exists, self.awaits))


_ORIGINS = TypeAdapter(dict[str, TableOrigin])


def read_origins(folder: Path) -> dict[str, TableOrigin]:
    """Read the origins by table; a missing or damaged file counts as empty."""
    try:
        return _ORIGINS.validate_python(read_json(folder / MEASURED_ABOUT).get("tables"))
    except (FileNotFoundError, InputError, ValidationError):
        return {}


def write_origins(
    folder: Path, general: Mapping[str, Any], tables: Mapping[str, TableOrigin]
) -> None:
    """Write the origins, after plain data about the sweep and the software."""
    content = {**general, "tables": {name: asdict(tables[name]) for name in sorted(tables)}}
    write_atomically(folder / MEASURED_ABOUT, (json.dumps(content, indent=1) + "\n").encode())


def open_measured(
    folder: Path, general: Mapping[str, Any], files: Iterable[Path]
) -> dict[str, TableOrigin]:
    """Prepare the folder `measured` for writing; return the origins of the tables that it has.

    Args:
        folder: its path; it need not exist.
        general: plain data about the sweep and the software.
        files: the files that may be replaced.

    Raises:
        InputError: the folder is a link or a file, or it has some of the files and no `about.json`, so
            that they may not be Stitch Sweep's.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"{folder}: is a link or a file; move it away, because a folder of this name is written"
        )
    origins = read_origins(folder)
    if not (folder / MEASURED_ABOUT).exists():
        if blocking := [str(path) for path in files if path.exists()]:
            raise InputError(
                f"{list_briefly(blocking)}: would be replaced, but {folder / MEASURED_ABOUT} is "
                "missing, so these files may not be Stitch Sweep's; move them away"
            )
        write_origins(folder, general, origins)  # marks the folder as Stitch Sweep's
    return origins
