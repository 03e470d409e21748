"""`stitch-sweep ui`: open the MLflow UI."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Annotated

import typer

from stitch_sweep.cli.options import Overrides, read_with_overrides
from stitch_sweep.core.errors import InputError


def ui(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="Configuration of the sweep whose MLflow store is opened. Default: "
            "MLFLOW_TRACKING_URI, or the store of the current folder's project."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    set_: Overrides = None,
) -> None:
    """Start the MLflow UI, on this machine only, for the store that contains a sweep's runs."""
    from stitch_sweep.config.places import Places
    from stitch_sweep.config.tracking import TrackingConfig
    from stitch_sweep.tracking.mlflow_address import (
        check_tracking,
        local_database,
        resolve,
        show_address,
    )
    from stitch_sweep.tracking.moved_store import adopt_artifacts

    if config is None:
        tracking, places = TrackingConfig(), Places.of_folder(Path())
    else:
        settings = read_with_overrides(config, set_)
        tracking, places = settings.tracking, settings.places
    store = resolve(tracking.uri, places)
    if store.lower().startswith(("http", "databricks")):
        check_tracking(tracking, places)
        shown = show_address(tracking.uri, store)
        raise InputError(f"the runs are on a server: open {shown} in a browser")
    database = local_database(store)
    if database is not None and not database.is_file():
        raise InputError(
            f"{database}: there are no runs yet; pass the sweep's configuration, or run this command "
            "in the sweep's project"
        )
    check_tracking(tracking, places)
    try:
        adopt_artifacts(store)
    except sqlite3.Error as error:
        raise InputError(f"{database}: can't be opened: {error}") from None
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # In the environment and not among the arguments: an address may contain a password.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = store
    # Without -P, a user's file in the current folder could replace a module.
    command = [sys.executable, "-P", "-m", "mlflow", "ui"]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])
