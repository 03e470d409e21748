"""Callbacks of plugins, which hear of a sweep's results.

A callback is a class, registered in a plugin, with any of three methods:

    on_trial_result(trial, result)   a logged step of a trial
    on_trial_complete(trial)         a trial has ended
    on_sweep_end(sweep)              the sweep has ended, or was interrupted

Each callback has a thread of its own, which follows the ledger. A slow callback delays its own calls, and
one that raises an exception breaks nothing.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stitch_sweep.core.errors import InputError
from stitch_sweep.core.foreign_errors import describe_error
from stitch_sweep.core.registry import CALLBACKS, Registration
from stitch_sweep.storage import layout
from stitch_sweep.storage.status import read_status
from stitch_sweep.tracking.follower import PATIENCE_SECONDS, FollowerThread
from stitch_sweep.tracking.logger import TrialLogger

METHODS = ("on_trial_result", "on_trial_complete", "on_sweep_end")
"""The methods that a callback may have."""
POLL_SECONDS = 0.5


class Callback:
    """Base class of callbacks, whose methods do nothing. A callback may also be any other class.

    Trials, results and sweeps are plain data; a callback may change its copies.
    """

    def on_trial_result(self, trial: dict[str, Any], result: dict[str, Any]) -> None:
        """Hear of a logged step of a trial, in order, before the trial's end.

        Args:
            trial: the trial's record: `trial`, `sender`, `sender_layer`, `receiver`, `receiver_layer`,
                `factors`, `params`, `settings`, ...
            result: a row of its trajectory: `step`, `epoch`, `split`, `loss`, `accuracy`, ...
        """

    def on_trial_complete(self, trial: dict[str, Any]) -> None:
        """Hear of an ended trial: also `status`, `metrics`, `seconds` and `trajectory`."""

    def on_sweep_end(self, sweep: dict[str, Any]) -> None:
        """Hear of the end of a run: `folder`, and the numbers of trials of `stitch-sweep status`."""


class CallbackLogger(TrialLogger):
    """Calls one callback for every ended trial.

    After a crash, a callback may hear of the latest trial once more.

    Args:
        folder: the experiment folder.
        entry: the callback's registration.
        callback: the callback.
        say: is called with a line for the user at the first exception of a method.
    """

    def __init__(
        self, folder: Path, entry: Registration, callback: Any, say: Callable[[str], object]
    ) -> None:
        super().__init__(folder, f"callback-{_file_name(entry.name)}")
        self._entry = entry
        self._callback = callback
        self._say = say
        self._failed: set[str] = set()

    def log_trial(self, record: Mapping[str, Any]) -> None:
        """Call the callback for each step of an ended trial, and for its end."""
        for row in record.get("trajectory") or ():
            self._call("on_trial_result", record, row)
        self._call("on_trial_complete", record)

    def send_end(self) -> Iterator[str]:
        """Call the callback for the end of the sweep."""
        numbers = read_status(self.folder)
        del numbers["state"]  # this process still holds the ledger's lock
        self._call("on_sweep_end", {"folder": str(self.folder.absolute()), **numbers})
        yield "end"

    def _call(self, name: str, *arguments: Mapping[str, Any]) -> None:
        method = getattr(self._callback, name, None)
        if method is None:
            return
        try:
            method(*(copy.deepcopy(dict(argument)) for argument in arguments))
        except Exception as error:  # any exception of the user's code
            if name not in self._failed:
                self._failed.add(name)
                self._say(
                    f"callback {self._entry.name!r}: {name} failed: {describe_error(error)}. The sweep "
                    "goes on, and further errors of this method are not shown"
                )


class CallbackThread:
    """Follows the ledger with one callback.

    Args:
        folder: the experiment folder.
        entry: the callback's registration.
        callback: the callback.
        say: is called with a line for the user.
    """

    def __init__(
        self, folder: Path, entry: Registration, callback: Any, say: Callable[[str], object]
    ) -> None:
        self._logger: CallbackLogger | None = None
        self._make_logger = lambda: CallbackLogger(folder, entry, callback, say)
        self._description = folder / layout.LEDGER / layout.DESCRIPTION
        self._title = f"callback {entry.name!r}"
        self._say = say
        self._thread = FollowerThread(self._send, self._note_error, POLL_SECONDS)
        self._thread.start()

    def finish(self, patience: float = PATIENCE_SECONDS) -> None:
        """Make the remaining calls.

        Args:
            patience: seconds to wait for a call that doesn't return.
        """
        if not self._thread.finish(patience):
            self._thread.abandon()
            self._say(f"{self._title} did not return for {patience:.0f} seconds and is left alone")

    def abandon(self) -> None:
        """Make no further call: the sweep was refused."""
        self._thread.abandon()

    def _send(self, last: bool) -> Iterator[str]:
        if not self._description.exists():
            return
        self._logger = self._logger or self._make_logger()
        yield from self._logger.send()
        if last:
            yield from self._logger.send_end()

    def _note_error(self, error: Exception, last: bool) -> bool:
        """Report an error that isn't the callback's, such as a full disk."""
        self._say(f"{self._title} is not called any more: {type(error).__name__}: {error}")
        return False


def build_callbacks() -> list[tuple[Registration, Any]]:
    """Build the callbacks of all loaded plugins.

    Raises:
        InputError: a callback can't be built, or has none of the methods.
    """
    problems, callbacks = [], []
    for entry in CALLBACKS.extensions():
        place = f"callback {entry.name!r} (registered at {entry.place})"
        needed = [key for key, field in entry.options.model_fields.items() if field.is_required()]
        if needed:
            problems.append(
                f"{place}: {', '.join(needed)} has no default, and a callback has no options"
            )
        elif not any(hasattr(entry.factory, name) for name in METHODS):
            problems.append(f"{place}: has none of the methods {', '.join(METHODS)}")
        else:
            try:
                callbacks.append((entry, CALLBACKS.build(entry.name)))
            except InputError as error:
                problems += error.problems
    if problems:
        raise InputError(*problems)
    return callbacks


def _file_name(name: str) -> str:
    if re.fullmatch(layout.FILE_STEM, name):
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:16]
