"""Where a report's trials are tracked: addresses for the page, and the report on the sweep's own run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit

from stitch_sweep.report.experiment import Experiment, Part
from stitch_sweep.tracking import Tracker, look_up

LOCAL = "http://127.0.0.1:5000"
"""Where `stitch-sweep ui` shows a store that is a file."""


class Tracking:
    """The tracking servers of the folders of a report, as far as they answer.

    Args:
        experiments: the folders' configurations say which servers.
    """

    def __init__(self, experiments: Iterable[Experiment]) -> None:
        self.notes: list[str] = []
        self._parts = [part for experiment in experiments for part in experiment.parts]
        self._trackers: dict[Path, Tracker] = {}

    def addresses(self) -> dict[tuple[str, str], str]:
        """(folder, trial) -> address of its run, of those that a server has."""
        found: dict[tuple[str, str], str] = {}
        for part in self._parts:

            def ask(part: Part = part) -> None:
                uri, tracker = self._open(part)
                runs = None if tracker is None else tracker.runs()
                if tracker is None or runs is None:
                    return
                self._trackers[part.folder] = tracker
                base = web_address(uri)
                for trial, run in runs.children.items():
                    page = f"experiments/{quote(runs.experiment)}/runs/{quote(run)}"
                    found[str(part.folder), trial] = f"{base}/#/{page}"

            self._try(part, ask)
        return found

    def send(self, folder: Path, files: Iterable[Path]) -> int:
        """Hang files of a folder on the run of the sweep in it; returns how many were sent.

        Args:
            folder: an experiment folder that `addresses` was asked about.
            files: below it.
        """
        tracker = self._trackers.get(folder)
        part = next((part for part in self._parts if part.folder == folder), None)
        sent = 0

        def hang() -> None:
            nonlocal sent
            assert tracker is not None
            sent = tracker.send_report(files)

        if tracker is not None and part is not None:
            self._try(part, hang)
        return sent

    def _open(self, part: Part) -> tuple[str, Tracker | None]:
        section = (part.config or {}).get("tracking")
        tracking = section if isinstance(section, dict) else {}
        if part.description is None or not tracking.get("enabled", True):
            return "", None
        # What is kept of a URI with a password in it is None: then the environment may say it.
        uri = tracking.get("uri") or os.environ.get("MLFLOW_TRACKING_URI")
        if _would_give_away(str(uri)):
            self.notes.append(
                f"The tracking server of {part.name}, {web_address(str(uri))}, was not asked: the "
                "environment holds credentials, and they are sent only to the server that "
                "MLFLOW_TRACKING_URI names."
            )
            return "", None
        experiment = str(tracking.get("experiment") or "stitch-sweep")
        return str(uri or ""), look_up(part.folder, experiment, uri)

    def _try(self, part: Part, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a server or its client throws, the report goes on
            self.notes.append(
                f"The tracking server of {part.name} did not answer ({type(error).__name__}), so "
                "trials are named and not linked, and the report was not sent to it."
            )


def _would_give_away(uri: str) -> bool:
    """Whether MLflow would send the environment's credentials to a server that only a folder names."""
    held = any(
        f"MLFLOW_TRACKING_{name}" in os.environ for name in ("TOKEN", "USERNAME", "PASSWORD")
    )
    named = os.environ.get("MLFLOW_TRACKING_URI")
    return held and uri != named and urlsplit(uri).scheme in ("http", "https")


def web_address(uri: str) -> str:
    """Where a browser finds what is tracked at a URI, without credentials or parameters.

    Example:
        >>> web_address("https://me:word@host:8080/mlflow?token=1")
        'https://host:8080/mlflow'
        >>> web_address("sqlite:///mlflow.db")
        'http://127.0.0.1:5000'
    """
    try:
        parts = urlsplit(uri)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return LOCAL  # no address, so no browser finds anything there
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return LOCAL
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
