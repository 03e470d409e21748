"""Section `tracking`: MLflow."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from stitch_sweep.core.problems import mismatch, refusal
from stitch_sweep.core.registry import Options


class TrackingConfig(Options):
    """Where MLflow stores the runs."""

    experiment: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        default="stitch-sweep", description="Name of MLflow's experiment."
    )
    uri: str | None = Field(
        default=None,
        description="Address of MLflow's server or store. Default: the environment variable "
        "MLFLOW_TRACKING_URI, else a local sqlite file.",
    )
    enabled: bool = Field(default=True, description="Whether to log to MLflow.")

    @field_validator("experiment")
    @classmethod
    def _validate_experiment(cls, value: str) -> str:
        # Databricks' experiments begin with a /. No other part may lead out of the folder.
        parts = value.removeprefix("/").split("/")
        if any(part.strip(". ") == "" for part in parts) or not value.isprintable():
            expected = (
                "a name of printable characters without empty parts, '.' or '..' between its /"
            )
            raise refusal(mismatch(expected, value))
        return value
