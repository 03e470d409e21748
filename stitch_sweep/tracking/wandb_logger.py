"""Weights & Biases: a run for each trial, in a group for the sweep."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from stitch_sweep.tracking.logger import TrialLogger
from stitch_sweep.tracking.trial_content import run_metrics, run_name, run_params, run_tags


class WandbLogger(TrialLogger):
    """Sends a run for each trial. A run's id follows from the trial, so a trial has one run.

    Args:
        folder: the experiment folder; offline runs are written into its folder `wandb`.
        project: name of the project.
        mode: `online` or `offline`.
    """

    def __init__(self, folder: Path, project: str, mode: str) -> None:
        super().__init__(folder, f"wandb-{mode}")
        self._project, self._mode = project, mode
        self._sweep = (self._ledger.description() or {})["id"]
        self._wandb: Any = import_module("wandb")

    def log_trial(self, record: Mapping[str, Any]) -> None:
        """Send an ended trial."""
        run = self._open(record["trial"], run_name(record), "trial", run_params(record))
        finals, rows = {}, dict[int, dict[str, float]]()
        for point in run_metrics(record):
            if "/" in point.key:  # a step of the trajectory
                rows.setdefault(point.step, {})[point.key] = point.value
            else:
                finals[point.key] = point.value
        for step in sorted(rows):
            run.log(rows[step], step=step)
        run.summary.update({**finals, "status": record["status"], **run_tags(record)})
        run.finish(exit_code=1 if record["status"] == "failed" else 0)

    def send_end(self) -> Iterator[str]:
        """Send the pictures of the sweep's matrices."""
        pictures = self.pictures()
        if not pictures:
            return
        run = self._open("sweep", self.folder.resolve().name, "sweep", {})
        run.log({f"matrices/{path.stem}": self._wandb.Image(str(path)) for path in pictures})
        run.finish()
        yield "sweep"

    def _open(self, trial: str, name: str, kind: str, params: Mapping[str, Any]) -> Any:
        settings = self._wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        return self._wandb.init(
            project=self._project,
            mode=self._mode,
            id=hashlib.sha256(f"{self._sweep} {trial}".encode()).hexdigest()[:16],
            name=name,
            group=f"{self.folder.resolve().name}-{self._sweep[:8]}",
            job_type=kind,
            config={**params, "trial": trial},
            dir=str(self.folder),
            resume="allow" if self._mode == "online" else None,
            reinit="finish_previous",
            settings=settings,
        )


class WandbDestination:
    """Weights & Biases. See `logger.Destination`.

    Args:
        project: name of the project.
        mode: `online` or `offline`.
    """

    title = "Weights & Biases"

    def __init__(self, project: str, mode: str) -> None:
        self._project, self._mode = project, mode

    def load(self) -> None:
        """Import the client."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import_module("wandb")

    def check_early(self, folder: Path) -> None:
        """Check that the client has an API key, if it needs one; contact no server."""
        wandb: Any = import_module("wandb")
        if self._mode == "online" and not wandb.setup().settings.api_key:
            raise MissingKeyError

    def connect(self, folder: Path) -> WandbLogger:
        """Return a logger of the sweep in a folder."""
        self.check_early(folder)
        return WandbLogger(folder, self._project, self._mode)

    def answers(self) -> bool:
        """Return True: nothing is asked."""
        return True

    def explain(self, error: BaseException) -> str | None:
        """Explain why the server accepts no runs; None for a possible outage."""
        remedy = "run `wandb login`, set WANDB_API_KEY, or set tracking.wandb.mode to offline"
        if isinstance(error, ImportError):
            return f"a Python package is missing ({error}). Install it where the sweep is started"
        if isinstance(error, MissingKeyError):
            return f"there is no API key: {remedy}"
        if type(error).__name__ in ("AuthenticationError", "UsageError"):
            return f"{str(error).partition(chr(10))[0]}: {remedy}"
        return None


class MissingKeyError(Exception):
    """The client has no API key."""
