"""MLflow as a destination: what its process does besides sending."""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.error
import urllib.request
from importlib import import_module
from pathlib import Path
from typing import Any

from stitch_sweep.core.credentials import redact_uri
from stitch_sweep.tracking.errors import explain
from stitch_sweep.tracking.mlflow_address import local_database, resolve
from stitch_sweep.tracking.mlflow_tracker import Tracker

_PATIENCE_SECONDS = 7.0
"""Seconds that a busy server has for its answer to a probe; a dead one is reported within ten seconds."""


class MlflowDestination:
    """MLflow at the address of MLFLOW_TRACKING_URI. See `logger.Destination`.

    Args:
        experiment: name of the MLflow experiment.
    """

    title = "MLflow"

    def __init__(self, experiment: str) -> None:
        self._experiment = experiment
        self.uri = resolve(None)

    def load(self) -> None:
        """Import MLflow."""
        # `mlflow_setup` must come first.
        import_module("stitch_sweep.tracking.mlflow_setup")
        database: Any = import_module("mlflow.store.db.utils")
        # MLflow's ten attempts to open a database take more than the minute that a finished sweep waits.
        database.MAX_RETRY_COUNT = 1

    def check_early(self, folder: Path) -> None:
        """Look for the experiment; create nothing on the server."""
        from mlflow.store.db import utils
        from sqlalchemy import inspect

        # A query through MLflow would fill an empty or missing database with tables.
        if re.match(r"sqlite|postgresql|mysql|mssql", self.uri):
            file = local_database(self.uri)
            if file is not None and not file.is_file():
                return
            if not inspect(utils.create_sqlalchemy_engine(self.uri)).has_table("experiments"):
                return
        Tracker(folder, self._experiment, None).find_experiment()

    def connect(self, folder: Path) -> Tracker:
        """Return a tracker of the sweep in a folder."""
        return Tracker(folder, self._experiment, None)

    def answers(self) -> bool:
        """Return whether a server answers a request, with whatever; True for a database."""
        return not self.uri.lower().startswith(("http://", "https://")) or _answers(
            redact_uri(self.uri)
        )

    def explain(self, error: BaseException) -> str | None:
        """Explain why MLflow accepts no runs; None for a possible outage."""
        return explain(error, self.uri, self._experiment)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=_PATIENCE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # Whoever fails at TLS is there; a transfer tells the user the reason.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, http.client.HTTPException):
        return False
    except ValueError:  # not an address for this client, but maybe for MLflow's
        return True
