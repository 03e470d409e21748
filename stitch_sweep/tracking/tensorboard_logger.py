"""TensorBoard: event files with a run for each trial, and one for the sweep's pictures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stitch_sweep.tracking.logger import TrialLogger
from stitch_sweep.tracking.trial_content import run_metrics, run_name, run_params

# TensorBoard is imported in the functions that use it, because it is an optional dependency.
if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_SWEEP = "sweep"
"""Name of the run with the sweep's pictures."""
_LONGEST_NAME = 180
"""Characters; file systems allow 255 bytes."""


class TensorBoardLogger(TrialLogger):
    """Writes a run for each trial: its trajectory, final metrics, and settings as hyperparameters.

    A run appears when it is complete: it is written beside its place and then moved.

    Args:
        folder: the experiment folder.
        target: folder of the event files.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        super().__init__(folder, "tensorboard")
        self._target = target

    def log_trial(self, record: Mapping[str, Any]) -> None:
        """Write the run of an ended trial."""
        with _Run(self._target / folder_name(record)) as writer:
            finals = {}
            for point in run_metrics(record):
                if "/" in point.key:  # a step of the trajectory
                    writer.add_scalar(point.key, point.value, point.step, point.time / 1000)
                else:
                    finals[f"final/{point.key}"] = point.value
            params = {k: v for k, v in run_params(record).items() if v is not None}
            writer.add_hparams(params, finals, run_name=".")
            writer.add_text("trial", run_name(record))

    def send_end(self) -> Iterator[str]:
        """Write the pictures of the sweep's matrices."""
        pictures = self.pictures()
        if not pictures:
            return
        with _Run(self._target / _SWEEP) as writer:
            for path in pictures:
                writer.add_image(f"matrices/{path.stem}", _read_picture(path), dataformats="HWC")
        yield _SWEEP


def folder_name(record: Mapping[str, Any]) -> str:
    """Return the name of a trial's folder, which TensorBoard shows as the name of its run.

    It is the name of the run and the end of the study's id, which tells apart studies that differ in
    another crossed value: `a4-b2, conv1x1, mse, number 1, c7581bfa`.
    """
    name = run_name(record).replace(" -> ", "-").replace(":", "")
    readable = re.sub(r"[^\w.,+ -]", "_", name)[:_LONGEST_NAME]
    return f"{readable}, {record['study'].rpartition('-')[2]}"


class _Run:
    """Writes the event files of a run beside its folder, and moves them there at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._temporary = folder.with_name(f".{folder.name}.tmp")

    def __enter__(self) -> SummaryWriter:
        writer_class = import_module("torch.utils.tensorboard").SummaryWriter
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._writer: SummaryWriter = writer_class(str(self._temporary))
        return self._writer

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._writer.close()
        if error is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._temporary.rename(self._folder)
        else:
            shutil.rmtree(self._temporary, ignore_errors=True)


class TensorBoardDestination:
    """A folder of event files. See `logger.Destination`.

    Args:
        target: the folder.
    """

    title = "TensorBoard"

    def __init__(self, target: str) -> None:
        self._target = Path(target)

    def load(self) -> None:
        """Import TensorBoard."""
        import_module("torch.utils.tensorboard")

    def check_early(self, folder: Path) -> None:
        """Check nothing: the folder was checked when the configuration was."""

    def connect(self, folder: Path) -> TensorBoardLogger:
        """Return a logger of the sweep in a folder."""
        return TensorBoardLogger(folder, self._target)

    def answers(self) -> bool:
        """Return True: nothing is asked."""
        return True

    def explain(self, error: BaseException) -> str | None:
        """Explain that the folder can't be written; a full disk may have space later."""
        if isinstance(error, ImportError):
            return f"a Python package is missing ({error}). Install it where the sweep is started"
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
            return f"it can't be written ({error}). Set tracking.tensorboard to another folder"
        return None


def _read_picture(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
