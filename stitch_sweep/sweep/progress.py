"""Live progress on a terminal and in a notebook with ipywidgets, else plain lines; on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from stitch_sweep.core.console import Terminal
from stitch_sweep.networks.pretraining import Progress as NetworkProgress
from stitch_sweep.networks.recipes import Recipe

PLAIN_SECONDS = 15.0
"""Without a terminal, seconds between two lines about the same task."""


class Reporter:
    """Shows the progress of networks, stitches and trials.

    Args:
        console: where to print; by default standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Terminal(stderr=True)
        # In a notebook, rich shows progress with ipywidgets, which may be missing.
        self._has_bars = (
            find_spec("ipywidgets") is not None
            if self.console.is_jupyter
            else self.console.is_terminal
        )
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            disable=not self._has_bars,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}
        self._total = self._ended = self._failed = self._stopped = self._copied = 0

    def __enter__(self) -> Reporter:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, soft_wrap=True)

    @contextmanager
    def phase(self, result: str) -> Iterator[None]:
        """Print a line with the duration of a block after it, if it raises no error.

        Args:
            result: what the block has done, such as `data read`.
        """
        began = time.monotonic()
        yield
        self.say(f"{result} in {time.monotonic() - began:.1f} s")

    def network(self, recipe: Recipe, progress: NetworkProgress) -> None:
        """Show an epoch of a network's training."""
        note = f"validation accuracy {progress.val_accuracy:.3f}"
        is_complete = progress.weights is not None
        self._show(
            f"network {recipe.name}", progress.epoch, progress.epochs, note, last=is_complete
        )

    def check(self, name: str, done: int, total: int) -> None:
        """Show the check that runs next; an empty name after the last check."""
        self._show("checks", done, total, name, last=done == total)

    def step(self, task: str, done: int, total: int) -> None:
        """Show the number of completed steps of a task."""
        self._show(task, done, total, "", last=done == total)

    def expect(self, total: int, done: int) -> None:
        """Set the number of trials, and the number of trials that ended in earlier runs."""
        self._total, self._ended = total, done

    def trial(self, event: str, record: Mapping[str, Any]) -> None:
        """Show an event of a trial.

        Args:
            event: `started`, `ended`, `retried` (its worker died), `lost` (too many attempts),
                `left_out` (by `search.stop`), or `message` (from a worker to the user).
            record: the trial's record; for `left_out`, a mapping with the number of `trials`; for
                `message`, one with the `text`.
        """
        if event == "started":
            if "trials" not in self._tasks:
                self._show("trials", self._ended, self._total, "")
            return
        if event == "message":
            self.say(record["text"])
            return
        if event == "left_out":
            self._total -= record["trials"]
            return
        if event in ("retried", "lost"):
            action = "tried again" if event == "retried" else "too many attempts"
            self.say(f"{record['trial']}: {action}: {record.get('error', 'its worker died')}")
            return
        self._ended += 1
        self._copied += "copied_from" in record
        self._stopped += record["status"] == "stopped"
        if record["status"] == "failed":
            self._failed += 1
            self.say(f"failed: {record['trial']}: {record.get('error', '')}")
        cell = (
            f"{record['sender']}:{record['sender_layer']} -> "
            f"{record['receiver']}:{record['receiver_layer']}"
        )
        accuracy = record["metrics"].get("val_accuracy")
        note = cell if accuracy is None else f"{cell} {accuracy:.3f}"
        if self._failed:
            note += f", {self._failed} failed"
        if self._stopped:
            note += f", {self._stopped} stopped early"
        if self._copied:
            note += f", {self._copied} copied"
        self._show("trials", self._ended, self._total, note, last=self._ended == self._total)

    def _show(self, task: str, done: int, total: int, note: str, last: bool = False) -> None:
        if self._has_bars:
            if task not in self._tasks:
                self._tasks[task] = self._bars.add_task(task, total=total or 1, note="")
            self._bars.update(
                self._tasks[task], completed=done if total else 1, total=total or 1, note=note
            )
            return
        now = time.monotonic()
        if last or now - self._printed.get(task, -PLAIN_SECONDS) >= PLAIN_SECONDS:
            self._printed[task] = now
            self.say(f"{task}: {done}/{total} {note}".rstrip())
