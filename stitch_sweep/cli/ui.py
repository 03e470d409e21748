"""`stitch-sweep ui`: open the MLflow UI."""

from __future__ import annotations

import os
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
            help="The configuration whose tracking.uri to open. "
            "Default: MLFLOW_TRACKING_URI, or ./mlflow.db."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    set_: Overrides = None,
) -> None:
    """Open the MLflow UI of the store that contains a sweep's runs, on this machine only."""
    from stitch_sweep.config.tracking import TrackingConfig
    from stitch_sweep.core.credentials import redact_uri
    from stitch_sweep.tracking.mlflow_address import check_tracking, local_database, resolve

    tracking = TrackingConfig() if config is None else read_with_overrides(config, set_).tracking
    check_tracking(tracking)
    store = resolve(tracking.uri)
    if store.lower().startswith(("http", "databricks")):
        raise InputError(f"the runs are on a server: open {redact_uri(store)} in a browser")
    database = local_database(store)
    if database is not None and not database.is_file():
        raise InputError(
            f"{database}: there are no runs yet; pass the sweep's configuration, or run this command "
            "in the folder where the sweep was started"
        )
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # In the environment and not among the arguments: an address may contain a password.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = store
    # Without -P, a user's file in the current folder could replace a module.
    command = [sys.executable, "-P", "-m", "mlflow", "ui"]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])
