"""Section `tracking`: MLflow, TensorBoard, and Weights & Biases."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from stitch_sweep.config.defaults import without_defaults
from stitch_sweep.core.bounds import Text
from stitch_sweep.core.problems import mismatch, refusal
from stitch_sweep.core.registry import Options


class WandbConfig(Options):
    """Where Weights & Biases stores the runs.

    ```yaml
    tracking: {wandb: {project: stitching, mode: offline}}
    ```
    """

    project: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        default="stitch-sweep", description="Name of the project."
    )
    mode: Literal["online", "offline"] = Field(
        default="online",
        description="`offline` writes files that `wandb sync` uploads later; `online` needs an "
        "account.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_project(cls, value: Any) -> Any:
        return {"project": value} if isinstance(value, str) else value

    @field_validator("project")
    @classmethod
    def _validate_project(cls, value: str) -> str:
        if re.search(r"[/\\#?%:]", value) or not value.isprintable():
            raise refusal(
                mismatch("a name of printable characters without any of / \\ # ? % :", value)
            )
        return value


class TrackingConfig(Options):
    """Where MLflow and other loggers store the runs.

    ```yaml
    tracking: {uri: "http://127.0.0.1:5000", tensorboard: true}
    ```

    TensorBoard and Weights & Biases need extras: `pip install 'stitch-sweep[tensorboard]'`,
    `'stitch-sweep[wandb]'`. Every logger reads the ledger in its own process, so a slow or unreachable
    server doesn't delay the sweep. `--resume` sends results that a server has not received.

    - An address that MLflow can never use on this machine is refused before anything starts.
    - If the address contains a user, password, parameters or fragment, only the process that talks to
      MLflow gets it: `config.resolved.yml` then contains no `uri`.
    - Artifacts of an sqlite store go into the folder `mlruns` next to the database file.

    [Use an MLflow server](../guides/mlflow.md) explains servers, moved stores and the UI.
    """

    experiment: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        default="stitch-sweep", description="Name of MLflow's experiment."
    )
    uri: str | None = Field(
        default=None,
        description="Address of MLflow's server or store. Default: the environment variable "
        "MLFLOW_TRACKING_URI, else `mlflow.db` in the project's root.",
    )
    enabled: bool = Field(default=True, description="Whether to log to MLflow.")
    tensorboard: bool | Text = Field(
        default=False,
        description="`true` writes event files for TensorBoard into the folder `tensorboard` of the "
        "experiment folder. A path names another folder, in which each sweep gets a subfolder.",
    )
    wandb: WandbConfig | None = Field(
        default=None,
        description="Weights & Biases: a section with `project` and `mode`, or the name of the "
        "project. Default: not used.",
    )

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

    @model_serializer(mode="wrap")
    def _drop_unused_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, handler(self), ("tensorboard", "wandb"))
