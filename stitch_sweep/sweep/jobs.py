"""The check of a sweep that `ray job submit` starts."""

from __future__ import annotations

import os
from pathlib import Path

from stitch_sweep.core.errors import InputError


def check_job(folder: Path, zoo: Path, *, address: str | None, database: Path | None) -> None:
    """Check that a submitted job uses the cluster, and that its files outlast it.

    A job runs in a copy of the submitted working directory, which Ray deletes afterwards. Outside of a
    job, nothing is checked.

    Args:
        folder: the experiment folder.
        zoo: folder of trained networks.
        address: of the cluster, from the command line.
        database: MLflow's database, if it is a file.

    Raises:
        InputError: a line for each option that the job lacks.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return

    def is_deleted(path: Path) -> bool:
        return "working_dir_files" in path.expanduser().resolve().parts

    problems = []
    if address is None:
        problems.append("--address is missing: a job on the cluster needs --address auto")
    if is_deleted(folder):
        problems.append(
            f"--folder {folder}: is deleted with the job; give the full path of a permanent folder"
        )
    if is_deleted(zoo) and not zoo.exists():
        problems.append(f"zoo {zoo}: is deleted with the job; add --set zoo=/a/permanent/folder")
    if database is not None and is_deleted(database):
        problems.append(
            f"tracking.uri: {database.name} is deleted with the job; add --set tracking.uri=URI, such as "
            "sqlite:////a/permanent/folder/mlflow.db, or --set tracking.enabled=false"
        )
    if problems:
        raise InputError(*problems)
