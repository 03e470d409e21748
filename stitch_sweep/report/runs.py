"""Where a report's trials are tracked: addresses for the page, and the report on the sweep's own run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from stitch_sweep.core.credentials import public
from stitch_sweep.core.errors import InputError
from stitch_sweep.report.experiment import Experiment, Part
from stitch_sweep.tracking.tracker import Tracker, look_up

LOCAL = "http://127.0.0.1:5000"
"""Where `stitch-sweep ui` shows a store that is a file."""


_SWEEP_ID = re.compile("[0-9a-f]{32}")
SCHEMES = ("http", "https", "file", "sqlite", "postgresql", "mysql", "mssql", "databricks")
"""Kinds of addresses that MLflow takes; a scheme may name a driver, as in `mysql+pymysql`."""


def check_address(uri: str) -> None:
    """Check that a text is the address of a server or of a store that exists.

    MLflow takes any other text for a folder, and creates it.

    Raises:
        InputError: it isn't.
    """
    scheme, separator, _ = uri.partition(":")
    if not separator or scheme.partition("+")[0] not in SCHEMES:
        raise InputError(
            f"--track {public(uri)}: is not an address; allowed: http://HOST:PORT, https://HOST, "
            "sqlite:///FILE, file:///FOLDER, or another store that MLflow knows"
        )
    if scheme == "sqlite" and not Path(uri.partition("sqlite:///")[2]).is_file():
        raise InputError(f"--track {uri}: there is no such file; give the store that has the runs")
    if scheme == "file" and not Path(url2pathname(urlsplit(uri).path)).is_dir():
        raise InputError(
            f"--track {uri}: there is no such folder; give the store that has the runs"
        )


class Tracking:
    """The tracking server that the user named, as far as it answers.

    The folders' configurations name servers too. These are never contacted: a folder may be a
    stranger's, and MLflow sends its credentials to whatever server it is told to ask.

    Args:
        experiments: whose runs are looked up.
        uri: the server or store; None: nothing is contacted.
    """

    def __init__(self, experiments: Iterable[Experiment], uri: str | None) -> None:
        self.notes: list[str] = []
        self._uri = uri
        self._parts = [part for experiment in experiments for part in experiment.parts]
        self._trackers: dict[Path, Tracker] = {}

    def addresses(self) -> dict[tuple[str, str], str]:
        """(folder, trial) -> address of its run, of those that the server has."""
        if (uri := self._uri) is None:
            return {}
        found: dict[tuple[str, str], str] = {}
        for part in self._parts:

            def ask(part: Part = part) -> None:
                if part.description is None:
                    return
                # It stands in the query that the server is asked.
                if not _SWEEP_ID.fullmatch(str(part.description.get("id"))):
                    self.notes.append(
                        f"The ledger of {part.name} has no id of a sweep, so {web_address(uri)} was "
                        "not asked"
                    )
                    return
                section = (part.config or {}).get("tracking")
                tracking = section if isinstance(section, dict) else {}
                experiment = str(tracking.get("experiment") or "stitch-sweep")
                tracker = look_up(part.folder, experiment, uri)
                if (runs := tracker.runs()) is None:
                    self.notes.append(
                        f"{web_address(uri)} has no runs of {part.name} in the experiment "
                        f"{experiment}, so trials are named and not linked"
                    )
                    return
                self._trackers[part.folder] = tracker
                base = web_address(uri)
                for trial, run in runs.children.items():
                    page = f"experiments/{quote(runs.experiment)}/runs/{quote(run)}"
                    found[str(part.folder), trial] = f"{base}/#/{page}"

            self._try(part, ask)
        return found

    def send(self, folder: Path, files: Iterable[Path]) -> int:
        """Attach files of a folder to the run of the sweep in it; returns how many were sent.

        Args:
            folder: an experiment folder that `addresses` was asked about.
            files: below it.
        """
        tracker = self._trackers.get(folder)
        part = next((part for part in self._parts if part.folder == folder), None)
        sent = 0

        def attach() -> None:
            nonlocal sent
            assert tracker is not None
            sent = tracker.send_report(files)

        if tracker is not None and part is not None:
            self._try(part, attach)
        return sent

    def _try(self, part: Part, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a server or its client throws, the report goes on
            self.notes.append(
                f"{web_address(self._uri or '')} did not answer for {part.name} "
                f"({type(error).__name__}), so trials are named and not linked, and the report was "
                "not sent to it."
            )


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
