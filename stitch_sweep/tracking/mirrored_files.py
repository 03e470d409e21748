"""The files of an experiment folder that are copied.

The folder may also contain the user's files: config.yml, which may contain a password, and, if it is the
current folder, data, networks or a repository. None of these is copied.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from stitch_sweep.storage import layout

DESCRIPTION = f"{layout.LEDGER}/{layout.DESCRIPTION}"
RECORDS = f"{layout.LEDGER}/{layout.RECORDS}"
CHECKPOINTS = f"{layout.LEDGER}/{layout.CHECKPOINTS}"

Stamp = tuple[int, int]
"""Time of the last change in nanoseconds, and size in bytes; changes whenever a file does."""

_TRIAL = rf"{layout.FILE_STEM}-n[0-9]+"
_PATTERNS = {
    place: re.compile(pattern)
    for place, pattern in {
        layout.LEDGER: re.escape(layout.DESCRIPTION),
        RECORDS: rf"{_TRIAL}\.json",
        CHECKPOINTS: rf"{_TRIAL}(\.previous)?",
        layout.STITCHES: rf"{_TRIAL}\.safetensors",
        ".": "|".join(
            re.escape(name)
            for name in (
                layout.RESOLVED_CONFIG,
                layout.RESULTS,
                layout.PREDICTIONS,
                layout.TRAJECTORIES,
                layout.PICKLED_TRAJECTORIES,
                layout.OPTUNA_JOURNAL,
                layout.SUMMARY,
                layout.PARETO_FRONT,
                layout.REPORT_PAGE,
                layout.VERDICTS,
                layout.ANALYSIS_MANIFEST,
                layout.REPORT_MANIFEST,
                layout.SWEEP_MANIFEST,
            )
        ),
        layout.MATRICES: rf"{layout.FILE_STEM}\.csv",
        layout.FIGURES: rf"{layout.FILE_STEM}\.(png|pdf)",
        layout.TABLES: rf"{layout.FILE_STEM}\.(csv|tex)",
        layout.MEASURED: rf"{layout.FILE_STEM}\.(parquet|safetensors)"
        rf"|{re.escape(layout.MEASURED_ABOUT)}|{re.escape(layout.LONGER)}",
    }.items()
}


def list_files(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """Iterate over the files to copy, as (name relative to the folder, stamp)."""
    for place, pattern in _PATTERNS.items():
        for path in (folder / place).glob("*"):
            if pattern.fullmatch(path.name) and (stamp := read_stamp(path)) is not None:
                yield path.relative_to(folder).as_posix(), stamp


def read_stamp(path: Path) -> Stamp | None:
    """Return a file's stamp; None if there is no regular file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


def is_copied(name: str) -> bool:
    """Return whether a name, relative to the folder, is that of a file to copy."""
    pattern = _PATTERNS.get(parent_of(name))
    return pattern is not None and pattern.fullmatch(PurePosixPath(name).name) is not None


def is_record(name: str) -> bool:
    """Return whether a name, relative to the folder, is that of a trial's record."""
    return parent_of(name) == RECORDS


def parent_of(name: str) -> str:
    """Return the folder of a name, relative to the experiment folder."""
    return str(PurePosixPath(name).parent)


def trial_of_record(name: str) -> str:
    """Return the trial of a record's name."""
    return PurePosixPath(name).stem


def stitch_name(trial: str) -> str:
    """Return the name of a trial's stitch, relative to the folder."""
    return f"{layout.STITCHES}/{trial}.safetensors"
