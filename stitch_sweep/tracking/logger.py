"""The interface of loggers, and what loggers of single trials have in common.

A logger brings a receiver up to the state of a sweep's ledger. MLflow, TensorBoard, Weights & Biases and
the callbacks of plugins are loggers; `follower.follow` calls all of them.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from stitch_sweep.storage import layout
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.records import RecordError


class Logger(Protocol):
    """Sends a sweep's results to one receiver. Its process may be killed and started again."""

    def send(self) -> Iterator[str]:
        """Send every ended trial that the receiver lacks, and yield its id after its success."""

    def send_end(self) -> Iterator[str]:
        """Send what belongs to the end of a sweep, and yield a word after each success."""

    def forget_server_state(self) -> None:
        """Ask the receiver again what it has: after an error, the failed call may have worked."""


class Destination(Protocol):
    """A receiver of results, before a logger is connected to it.

    Attributes:
        title: its name in messages, such as "MLflow".
    """

    title: str

    def load(self) -> None:
        """Import what takes seconds, before the sweep begins.

        Raises:
            ImportError: a package is missing.
        """

    def check_early(self, folder: Path) -> None:
        """Raise an exception if the receiver refuses the sweep; create nothing there."""

    def connect(self, folder: Path) -> Logger:
        """Return a logger of the sweep in a folder."""

    def answers(self) -> bool:
        """Return whether the server answers at all; True if there is no server to ask."""

    def explain(self, error: BaseException) -> str | None:
        """Explain in a sentence why no later call can work, and what to do; None for an outage."""


class TrialLogger(ABC):
    """A logger that sends each ended trial once, and remembers in the ledger's folder what it sent.

    Args:
        folder: the experiment folder.
        name: of the logger, as a file's name.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._ledger = Ledger(folder)
        self._sent_file = self._ledger.root / layout.SENT / name
        self._sent = _read_lines(self._sent_file)

    @abstractmethod
    def log_trial(self, record: Mapping[str, Any]) -> None:
        """Send an ended trial."""

    def send(self) -> Iterator[str]:
        """Send every ended trial that wasn't sent, in the order in which they ended."""
        new = [
            record
            for trial in self._ledger.trial_ids() - self._sent
            if (record := self._read(trial))
        ]
        for record in sorted(new, key=lambda r: (r["started"] + r["seconds"], r["trial"])):
            self.log_trial(record)
            self._note_sent(record["trial"])
            yield record["trial"]

    def send_end(self) -> Iterator[str]:
        """Send nothing at the end of a sweep."""
        return iter(())

    def forget_server_state(self) -> None:  # noqa: B027  (most loggers have nothing to forget)
        """Do nothing: what was sent is noted here."""

    def pictures(self) -> list[Path]:
        """Return the pictures of the sweep's matrices that exist."""
        names = sorted((self.folder / layout.MATRICES).glob("[!.]*.csv"))
        pictures = (self.folder / layout.FIGURES / f"{name.stem}.png" for name in names)
        return [path for path in pictures if path.exists()]

    def _read(self, trial: str) -> dict[str, Any] | None:
        try:
            record = self._ledger.read(trial)
        except RecordError:  # a resume, or the end of the sweep, reports it
            return None
        return record if record is not None and record["status"] != "running" else None

    def _note_sent(self, trial: str) -> None:
        self._sent_file.parent.mkdir(exist_ok=True)
        with self._sent_file.open("a") as file:
            file.write(f"{trial}\n")
            file.flush()
            os.fsync(file.fileno())
        self._sent.add(trial)


def _read_lines(path: Path) -> set[str]:
    """Read complete lines; a process may have died while it wrote the last one."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return set()
    return {line[:-1] for line in text.splitlines(keepends=True) if line.endswith("\n")}
