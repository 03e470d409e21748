"""Ray, imported after the environment variables that it reads.

Import Ray from here: `from stitch_sweep.sweep.ray_setup import ray, tune`. The variables disable
telemetry, and Tune's own snapshots, loggers and tables. They also let workers take longer to start.
"""

from __future__ import annotations

import os

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # After 60 s a raylet would forget a worker that is still starting, and `ray.init`, which waits for
    # the first workers, would never return. On a busy machine, a process of low priority needs longer.
    "RAY_worker_register_timeout_seconds": "3600",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _key, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_key, _value)

import ray  # noqa: E402  (after the environment)
from ray import tune  # noqa: E402

__all__ = ["ray", "tune"]
