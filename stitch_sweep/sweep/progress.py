"""Live progress on a terminal and in a notebook with ipywidgets, else plain lines; on standard error."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Literal

from rich.console import Console, RenderableType
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
from rich.text import Text

from stitch_sweep.core.console import Terminal
from stitch_sweep.networks.pretraining import Progress as NetworkProgress
from stitch_sweep.networks.recipes import Recipe
from stitch_sweep.storage.study import format_cell

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
        self._bars = _Display(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            disable=not self._has_bars,
            # Trials end in bursts, so their rate is that of minutes.
            speed_estimate_period=300,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}
        self._trials = TrialCounter()

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

    def rank_by(self, mode: Literal["max", "min"]) -> None:
        """Set whether high or low values of the search metric are best."""
        self._trials.mode = mode

    def count(self, record: Mapping[str, Any]) -> None:
        """Count a trial that ended in an earlier run."""
        self._trials.add(record)

    def expect(self, total: int) -> None:
        """Set the number of trials of the sweep."""
        self._trials.total = total

    def trial(self, event: str, record: Mapping[str, Any]) -> None:
        """Show an event of a trial.

        Args:
            event: `started`, `ended`, `retried` (its worker died), `lost` (too many attempts),
                `left_out` (by `search.stop`), or `message` (from a worker to the user).
            record: the trial's record; for `left_out`, a mapping with the number of `trials`; for
                `message`, one with the `text`.
        """
        if event == "started":
            if self._trials.start():
                self._show("trials", self._trials.ended, self._trials.total, "")
            return
        if event == "message":
            self.say(record["text"])
            return
        if event == "left_out":
            self._trials.total -= record["trials"]
            self._show_trials()
            return
        if event in ("retried", "lost"):
            action = "tried again" if event == "retried" else "too many attempts"
            self.say(f"{record['trial']}: {action}: {record.get('error', 'its worker died')}")
            return
        self._trials.add(record)
        if record["status"] == "failed":
            self.say(f"failed: {record['trial']}: {record.get('error', '')}")
        self._show_trials()

    def _show_trials(self) -> None:
        trials = self._trials
        status = ", ".join(trials.describe(with_remaining=not self._has_bars))
        self._bars.status = status
        note = "" if self._has_bars else status
        self._show("trials", trials.ended, trials.total, note, last=trials.ended == trials.total)

    def _show(self, task: str, done: int, total: int, note: str, last: bool = False) -> None:
        if self._has_bars:
            if task not in self._tasks:
                self._tasks[task] = self._bars.add_task(
                    task, total=total or 1, completed=done, note=""
                )
            self._bars.update(
                self._tasks[task], completed=done if total else 1, total=total or 1, note=note
            )
            return
        now = time.monotonic()
        if last or now - self._printed.get(task, -PLAIN_SECONDS) >= PLAIN_SECONDS:
            self._printed[task] = now
            self.say(f"{task}: {done}/{total}{', ' if note else ''}{note}")


class TrialCounter:
    """Counts ended trials and finds the best one.

    Args:
        clock: returns the time in seconds.

    Attributes:
        total: number of trials that will have ended at the end of the sweep.
        mode: whether high or low values of the search metric are best.
        ended: number of trials that have ended, those of earlier runs included.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = self.ended = 0
        self.mode: Literal["max", "min"] = "max"
        self._clock = clock
        self._began: float | None = None
        self._ended_before = 0
        self._counts = Counter[str]()
        self._best: dict[str, Any] | None = None

    def start(self) -> bool:
        """Begin to measure the rate, with the first trial of this run; return whether it is the first."""
        if self._began is not None:
            return False
        self._began, self._ended_before = self._clock(), self.ended
        return True

    def add(self, record: Mapping[str, Any]) -> None:
        """Count an ended trial."""
        self.ended += 1
        self._counts[record["status"]] += 1
        self._counts["copied"] += "copied_from" in record
        value = record.get("metric")
        if record["status"] != "finished" or value is None:
            return
        sign = 1 if self.mode == "max" else -1
        if self._best is None or sign * value > sign * self._best["metric"]:
            keys = ("metric", "sender", "sender_layer", "receiver", "receiver_layer")
            self._best = {key: record[key] for key in keys}

    def describe(self, *, with_remaining: bool) -> Iterator[str]:
        """Describe rate, remaining time, failed, stopped and copied trials, and the best one.

        Args:
            with_remaining: whether the remaining time is part of it.
        """
        seconds = self._clock() - self._began if self._began is not None else 0.0
        if (count := self.ended - self._ended_before) and seconds:
            yield f"{60 * count / seconds:.3g} per minute"
            if with_remaining and self.ended < self.total:
                remaining = timedelta(seconds=round(seconds / count * (self.total - self.ended)))
                yield f"{remaining} left"
        words = {"failed": "failed", "stopped": "stopped early", "copied": "copied"}
        yield from (
            f"{self._counts[key]} {text}" for key, text in words.items() if self._counts[key]
        )
        if (best := self._best) is not None:
            yield f"best {best['metric']:.3f} ({format_cell(best)})"


class _Display(Progress):
    """Progress bars, with a line of text below them.

    Attributes:
        status: the text.
    """

    status = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bars and the text."""
        yield from super().get_renderables()
        if self.status:
            yield Text(f"  {self.status}", overflow="ellipsis", no_wrap=True)
