"""MLflow runs of a report's trials: addresses for the page, and attaching the report to a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from stitch_sweep.core.credentials import redact
from stitch_sweep.core.errors import InputError
from stitch_sweep.report.experiment import Experiment, Part
from stitch_sweep.tracking.mlflow_tracker import Tracker, look_up

LOCAL = "http://127.0.0.1:5000"
"""Address at which `stitch-sweep ui` shows a store that is a file."""

_SWEEP_ID = re.compile("[0-9a-f]{32}")
SCHEMES = ("http", "https", "file", "sqlite", "postgresql", "mysql", "mssql", "databricks")
"""Schemes of addresses that MLflow accepts; a scheme may name a driver, as in `mysql+pymysql`."""


def check_address(uri: str) -> None:
    """Check that a text is the address of a server or of an existing store.

    MLflow treats any other text as a folder, and creates it.

    Raises:
        InputError: the text is not an address.
    """
    scheme, separator, _ = uri.partition(":")
    if not separator or scheme.partition("+")[0] not in SCHEMES:
        raise InputError(
            f"--track {redact(uri)}: is not an address; allowed: http://HOST:PORT, https://HOST, "
            "sqlite:///FILE, file:///FOLDER, or another store that MLflow knows"
        )
    if scheme == "sqlite" and not Path(uri.partition("sqlite:///")[2]).is_file():
        raise InputError(
            f"--track {uri}: there is no such file; give the address of the store that has the runs"
        )
    if scheme == "file" and not Path(url2pathname(urlsplit(uri).path)).is_dir():
        raise InputError(
            f"--track {uri}: there is no such folder; give the address of the store that has the runs"
        )


class Tracking:
    """The MLflow runs on the tracking server that the user named.

    The folders' configurations name servers too. Those are never contacted: a folder may come from an
    untrusted person, and MLflow sends its credentials to every server that it contacts.

    Args:
        experiments: the experiments whose runs are looked up.
        uri: address of the server or store; None: nothing is contacted.
    """

    def __init__(self, experiments: Iterable[Experiment], uri: str | None) -> None:
        self.notes: list[str] = []
        self._uri = uri
        self._parts = [part for experiment in experiments for part in experiment.parts]
        self._trackers: dict[Path, Tracker] = {}

    def addresses(self) -> dict[tuple[str, str], str]:
        """Look up the runs: (folder, trial) -> address of its run, for the trials that the server has."""
        addresses: dict[tuple[str, str], str] = {}
        if self._uri is not None:
            for part in self._parts:
                self._try(part, partial(self._look_up, part, self._uri, addresses))
        return addresses

    def _look_up(self, part: Part, uri: str, addresses: dict[tuple[str, str], str]) -> None:
        """Add the addresses of a folder's runs."""
        if part.description is None:
            return
        server = web_address(uri)
        # The id becomes a part of the query that the server gets.
        if not _SWEEP_ID.fullmatch(str(part.description.get("id"))):
            self.notes.append(
                f"The ledger of {part.name} has no sweep id, so {server} was not contacted"
            )
            return
        section = (part.config or {}).get("tracking")
        tracking = section if isinstance(section, dict) else {}
        experiment = str(tracking.get("experiment") or "stitch-sweep")
        tracker = look_up(part.folder, experiment, uri)
        if (runs := tracker.runs()) is None:
            self.notes.append(
                f"{server} has no runs of {part.name} in the experiment {experiment}, so trials "
                "are named and not linked"
            )
            return
        self._trackers[part.folder] = tracker
        for trial, run in runs.children.items():
            page = f"experiments/{quote(runs.experiment)}/runs/{quote(run)}"
            addresses[str(part.folder), trial] = f"{server}/#/{page}"

    def send(self, folder: Path, files: Iterable[Path]) -> int:
        """Attach files to the run of a folder's sweep, and return the number of attached files.

        Args:
            folder: an experiment folder; `addresses` must have found its run.
            files: files below the folder.
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
        except Exception as error:  # the report does not depend on the server
            self.notes.append(
                f"{web_address(self._uri or '')} did not answer for {part.name} "
                f"({type(error).__name__}), so trials are named and not linked, and the report was "
                "not sent to it."
            )


def web_address(uri: str) -> str:
    """Return the address of a tracking URI for a browser, without credentials or parameters.

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
        return LOCAL  # not a valid address
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return LOCAL
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
