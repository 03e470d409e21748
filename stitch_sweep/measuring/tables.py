"""Compute the tables of `measured/` from an experiment folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.measuring.about import TableOrigin, open_measured, write_origins
from stitch_sweep.measuring.makers import MAKERS, Content
from stitch_sweep.measuring.permissions import Permissions
from stitch_sweep.measuring.pictures import Pictures, write_pictures
from stitch_sweep.measuring.source import NotMeasurableError, SweepSource
from stitch_sweep.storage.files import atomic
from stitch_sweep.storage.layout import MEASURED

TABLES = tuple(MAKERS)
"""The tables that `measure` writes, in this order; `images` is a safetensors file, the others are
parquet."""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measured:
    """The content of `measured/` after a call of `measure`.

    Attributes:
        folder: the folder of the tables.
        tables: number of rows by table; 0 where there is no file.
        written: the tables that this call wrote; the other tables were current.
        notes: sentences on the computed results, and on results that could not be computed.
    """

    folder: Path
    tables: dict[str, int]
    written: list[str]
    notes: list[str]

    def path(self, table: str) -> Path:
        """Return the path of a table; the file exists if the table has rows."""
        return _table_path(self.folder, table)


def measure(
    folder: Path | str,
    *,
    on_progress: OnProgress = lambda table, done, total: None,
    only: Iterable[str] | None = None,
    run_code: bool = False,
    allow: Iterable[Path | str] = (),
    download: Iterable[str] = (),
) -> Measured:
    """Compute the tables that need a sweep's networks, images and stored stitches.

    Works on finished and running sweeps, with the best trial of every study. Nothing is trained:
    results that depend on networks that the zoo lacks are skipped, and the notes list these networks.
    Tables that are current are not computed again; `about.json` contains the origin of each. Networks
    and data are those of `config.resolved.yml`, whose paths are relative to its folder or to the
    project's root, as in a sweep. Nothing is downloaded, and only files below the folder are read,
    because the folder may come from a stranger. The only exception is the folder `zoo` in the project's
    root, if the configuration names this zoo.

    Args:
        folder: an experiment folder that `stitch-sweep sweep` wrote.
        on_progress: called with (table, finished parts, all parts).
        only: names in `TABLES`; all of them if not given.
        run_code: whether to run the factories of networks with `source: python`. The folder names these
            factories, and may come from a stranger. If false, these networks are skipped.
        allow: further folders whose files are read if the configuration names them.
        download: libraries ("torchvision", "timm") whose published weights are loaded, from their cache
            or the network.

    Returns:
        The tables, and notes about results that could not be computed.

    Raises:
        InputError: the folder contains no sweep; a name in `only` is no table, a folder in `allow`
            doesn't exist, or a library in `download` is unknown; `measured` is a link to another place,
            or contains files that Stitch Sweep may not have written and would replace.
        FrozenError: a network changed during the computation.

    Example:
        >>> measured = measure("experiments/quickstart/digits")  # doctest: +SKIP
        >>> pd.read_parquet(measured.path("networks"))["test_accuracy"]  # doctest: +SKIP
    """
    requested = list(TABLES if only is None else dict.fromkeys(only))
    if unknown := [name for name in requested if name not in TABLES]:
        raise InputError(*(f"no table {name!r}: {nearest(name, TABLES)}" for name in unknown))
    folder = Path(folder)
    permissions = Permissions(folder, allow=allow, download=download, run_code=run_code)
    source = SweepSource(folder, permissions)
    target = folder / MEASURED
    origins = open_measured(target, source.general, [_table_path(target, name) for name in TABLES])
    written = []
    for table in (name for name in TABLES if name in requested):
        origin = origins.get(table)
        path = _table_path(target, table)
        if origin is not None and origin.is_current(source.key, path, permissions.exists):
            continue
        had_rows = origin is not None and origin.rows > 0
        origins[table] = _write_table(source, path, table, on_progress)
        if had_rows and not origins[table].rows:
            path.unlink(missing_ok=True)  # from an earlier state of the sweep
        # After each table, so that a killed process loses one table at most.
        write_origins(target, source.general, origins)
        if origins[table].rows:
            written.append(table)
    source.verify()
    notes = [*source.damaged, *(note for name in requested for note in origins[name].notes)]
    rows = {name: origins[name].rows for name in requested}
    return Measured(target, rows, written, list(dict.fromkeys(notes)))


def _table_path(folder: Path, table: str) -> Path:
    return folder / f"{table}.{'safetensors' if table == 'images' else 'parquet'}"


def _write_table(
    source: SweepSource, path: Path, table: str, on_progress: OnProgress
) -> TableOrigin:
    try:
        content = MAKERS[table](source, lambda done, total: on_progress(table, done, total))
    except NotMeasurableError as error:
        content = Content(None, error.notes, error.awaits, error.again)
    if isinstance(content.table, Pictures):
        rows = len(content.table.pictures)
        if rows:
            write_pictures(path, content.table)
    else:
        rows = 0 if content.table is None else len(content.table)
        if content.table is not None and rows:
            with atomic(path) as temporary:
                content.table.to_parquet(temporary)
    return TableOrigin(source.key, rows, content.notes, content.awaits, content.again)
