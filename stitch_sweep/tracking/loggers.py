"""All loggers of a sweep: their checks, their start and their end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from stitch_sweep.config.places import Places
from stitch_sweep.config.tracking import TrackingConfig
from stitch_sweep.core.errors import InputError, check_all
from stitch_sweep.storage import layout
from stitch_sweep.tracking.callbacks import CallbackThread, build_callbacks
from stitch_sweep.tracking.mlflow_address import check_tracking, resolve, secret_variables
from stitch_sweep.tracking.process import LoggerProcess, TrackingProcess
from stitch_sweep.tracking.tensorboard_logger import TensorBoardDestination
from stitch_sweep.tracking.wandb_logger import WandbDestination

_RESUME = "run the same command with --resume to send the rest"


def check_loggers(config: TrackingConfig, places: Places | None = None) -> None:
    """Check all loggers on this machine; contact no server and create nothing.

    Args:
        config: the section `tracking`.
        places: of the configuration; by default the current folder's.

    Raises:
        InputError: a package is missing, or an address or folder can't be used.
    """
    check_all(
        lambda: check_tracking(config, places),
        lambda: _check_package("tensorboard", bool(config.tensorboard)),
        lambda: _check_folder(config),
        lambda: _check_package("wandb", config.wandb is not None),
        build_callbacks,
    )


def _check_package(name: str, is_used: bool) -> None:
    spec = find_spec(name) if is_used else None
    # A folder of this name, such as that of offline runs, is no package.
    if is_used and (spec is None or spec.origin is None):
        raise InputError(
            f"tracking.{name} needs {name}, which isn't installed: pip install 'stitch-sweep[{name}]'"
        )


def _check_folder(config: TrackingConfig) -> None:
    if isinstance(config.tensorboard, str):
        folder = Path(config.tensorboard)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"tracking.tensorboard: {folder} is a file, expected a folder")


@dataclass(frozen=True)
class LoggersEnd:
    """What the loggers have at the end of a sweep.

    Attributes:
        complete: whether MLflow, TensorBoard and Weights & Biases have everything; None if none is used.
        refusal: why one of them accepts no runs, with the remedy; or empty.
    """

    complete: bool | None
    refusal: str = ""


class Loggers:
    """The loggers of a sweep.

    Those with a process start at once, because that takes seconds, and wait for the sweep to begin.

    Args:
        folder: the experiment folder.
        config: the section `tracking`.
        places: of the configuration.
        say: is called with a line for the user.
    """

    def __init__(
        self, folder: Path, config: TrackingConfig, places: Places, say: Callable[[str], object]
    ) -> None:
        self._say = say
        self._processes: list[LoggerProcess] = []
        if config.enabled:
            self._processes.append(
                TrackingProcess(
                    folder,
                    config.experiment,
                    resolve(config.uri, places),
                    say,
                    root=places.root,
                    hidden=secret_variables(config.uri),
                )
            )
        if config.tensorboard:
            target = tensorboard_folder(folder, config)
            arguments = ["tensorboard", str(target)]
            self._processes.append(
                LoggerProcess(folder, TensorBoardDestination.title, arguments, say)
            )
        if config.wandb is not None:
            arguments = ["wandb", config.wandb.project, config.wandb.mode]
            self._processes.append(LoggerProcess(folder, WandbDestination.title, arguments, say))
        self._folder = folder
        self._callbacks: list[CallbackThread] = []

    def start_callbacks(self) -> None:
        """Start the threads of the callbacks, while this process holds the ledger's lock."""
        self._callbacks = [
            CallbackThread(self._folder, entry, callback, self._say)
            for entry, callback in build_callbacks()
        ]

    @property
    def titles(self) -> list[str]:
        """Names of the receivers of runs."""
        return [process.title for process in self._processes]

    def finish(self) -> LoggersEnd:
        """Let all loggers send the rest, side by side; say what is missing."""
        finishes: list[Callable[[], bool | None]] = [p.finish for p in self._processes]
        finishes += [thread.finish for thread in self._callbacks]
        if not finishes:
            return LoggersEnd(None)
        with ThreadPoolExecutor(len(finishes)) as pool:
            ends = list(pool.map(lambda finish: finish(), finishes))
        refusals = []
        for process, is_complete in zip(self._processes, ends, strict=False):
            if is_complete:
                continue
            if process.refusal:
                refusals.append(process.refusal)
                self._say(
                    f"{process.title} did not accept everything: {process.refusal}. Then {_RESUME}"
                )
            else:
                self._say(
                    f"{process.title} did not accept everything ({process.error or 'no answer'}); "
                    f"nothing is lost: {_RESUME}"
                )
        complete = all(ends[: len(self._processes)]) if self._processes else None
        return LoggersEnd(complete, "; ".join(refusals))

    def abandon(self) -> None:
        """End all loggers at once: the sweep was refused. Runs that were sent stay where they are."""
        for process in self._processes:
            process.abandon()
        for thread in self._callbacks:
            thread.abandon()


def tensorboard_folder(folder: Path, config: TrackingConfig) -> Path:
    """Return the folder of a sweep's event files.

    Args:
        folder: the experiment folder.
        config: the section `tracking`, with `tensorboard`.
    """
    if isinstance(config.tensorboard, str):
        return Path(config.tensorboard) / folder.resolve().name
    return folder / layout.TENSORBOARD
