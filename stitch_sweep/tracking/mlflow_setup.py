"""MLflow, imported after the environment variables that it reads.

Import MLflow's client from here, inside the function that needs it: the import takes seconds.
"""

from __future__ import annotations

import os

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # With MLflow's default, one call to a dead server hangs for minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # Stitch Sweep's own retries first ask what the server has: a call without an answer may have worked.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    # Otherwise thousands of runs would each print their address.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
for _key, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_key, _value)

from mlflow import MlflowClient  # noqa: E402  (after the environment)
from mlflow.entities import Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

__all__ = ["Metric", "MlflowClient", "MlflowException", "Param", "Run", "RunTag"]
