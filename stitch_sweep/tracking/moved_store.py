"""Artifacts of an sqlite store that was moved or copied with its project.

MLflow writes the absolute place of artifacts into its database. In a copy of a project, further artifacts
would be written into the original, and in a moved one they would not be found.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from stitch_sweep.tracking.mlflow_address import artifact_location, local_database

_KIND = ("mlflow.experimentKind", "custom_model_development")
"""The tag of the experiments that Stitch Sweep creates."""
_TIMEOUT_SECONDS = 10


def adopt_artifacts(uri: str) -> int:
    """Let the experiments of a moved or copied store have their artifacts beside the store again.

    Changed are the experiments that Stitch Sweep created with their artifacts in `mlruns` beside the
    database, if that was another folder, and their runs. No file is moved.

    Args:
        uri: address of a store; others than sqlite files, and missing files, are left alone.

    Returns:
        Number of changed experiments.

    Raises:
        sqlite3.Error: the database can't be read or written.
    """
    database, current = local_database(uri), artifact_location(uri)
    if database is None or current is None or not database.is_file():
        return 0
    with (
        closing(sqlite3.connect(database, timeout=_TIMEOUT_SECONDS)) as connection,
        connection,
    ):
        tables = (
            "select count(*) from sqlite_master where name in ('experiments', 'experiment_tags')"
        )
        if connection.execute(tables).fetchone()[0] < 2:
            return 0  # not a store of MLflow, or an empty file
        rows = connection.execute(
            "select experiment_id, artifact_location from experiments where experiment_id in "
            "(select experiment_id from experiment_tags where key = ? and value = ?)",
            _KIND,
        ).fetchall()
        moved = [(key, place) for key, place in rows if _is_elsewhere(place, current)]
        for key, place in moved:
            connection.execute(
                "update experiments set artifact_location = ? where experiment_id = ?",
                (current, key),
            )
            # Not `like`, whose wildcards may be characters of the path.
            connection.execute(
                "update runs set artifact_uri = ? || substr(artifact_uri, ?) "
                "where experiment_id = ? and substr(artifact_uri, 1, ?) = ?",
                (current, len(place) + 1, key, len(place) + 1, f"{place}/"),
            )
    return len(moved)


def _is_elsewhere(place: str | None, current: str) -> bool:
    """Return whether an artifact location is the folder `mlruns` beside another database."""
    if not place or place == current or urlsplit(place).scheme not in ("", "file"):
        return False
    return Path(url2pathname(urlsplit(place).path)).name == Path(current).name
