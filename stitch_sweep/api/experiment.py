"""`load`: the tables, stitches, verdicts and pictures of a finished or running sweep."""

from __future__ import annotations

import base64
import html
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.seeding import restored_afterwards
from stitch_sweep.report.experiment import Experiment
from stitch_sweep.report.reading import load_experiment
from stitch_sweep.report.writing import Report, analyze
from stitch_sweep.stitches.storage import load_stitch
from stitch_sweep.storage import layout
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.status import read_status
from stitch_sweep.sweep.progress import Reporter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INDICES = ("triangle", "diagonal", "order")


class MissingStitchError(InputError, KeyError):
    """A trial has no stored stitch."""

    def __str__(self) -> str:
        return "\n".join(self.problems)


class StoredStitches(Mapping[str, nn.Module]):
    """The stored stitches of an experiment, by trial; each is loaded when it is accessed.

    A trial that was copied from an equal one has the stitch of that trial.

    Args:
        ledger: of the experiment.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getitem__(self, trial: str) -> nn.Module:
        if trial not in self:
            raise MissingStitchError(
                f"trial {trial!r} has no stored stitch; keep_stitches: all stores those of all trials"
            )
        return load_stitch(self._ledger.stitch_path(self._ledger.trained_trial(trial)))

    def __iter__(self) -> Iterator[str]:
        return (trial for trial in sorted(self._ledger.trial_ids()) if trial in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, trial: object) -> bool:
        if trial not in self._ledger.trial_ids():
            return False
        return self._ledger.stitch_path(self._ledger.trained_trial(str(trial))).is_file()


class SweepExperiment:
    """A finished or running sweep. Every access reads the current state of the experiment folder.

    Args:
        folder: the experiment folder.
        temporary: the temporary folder, which is removed together with this object; None if it stays.

    Attributes:
        folder: the experiment folder.
        stitches: the stored stitches by trial; see `StoredStitches`.

    Raises:
        InputError: the folder contains no sweep.
    """

    def __init__(
        self, folder: str | Path, temporary: TemporaryDirectory[str] | None = None
    ) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{folder}: not a folder; expected an experiment folder")
        ledger = Ledger(self.folder)
        if not ledger.exists and not (self.folder / layout.RESULTS).is_file():
            raise InputError(f"{folder}: contains no sweep; expected an experiment folder")
        self.stitches = StoredStitches(ledger)
        if temporary is not None:
            weakref.finalize(self, temporary.cleanup)

    def __repr__(self) -> str:
        try:
            status = self.status
        except InputError:  # only the tables of a sweep, or a damaged ledger
            return f"<experiment {self.folder}>"
        ended = status["finished"] + status["failed"] + status["stopped_early"]
        counts = f"{status['state']}, {ended} of {status['trials']} trials ended"
        return f"<experiment {self.folder}: {counts}, {status['failed']} failed>"

    @property
    def status(self) -> dict[str, Any]:
        """Numbers of trials by status, and whether the sweep is running."""
        return read_status(self.folder)

    @property
    def results(self) -> pd.DataFrame:
        """A row per ended trial: cell, factors, searched settings, metrics.

        Raises:
            InputError: no trial has ended yet, or a file of the folder is damaged.
        """
        return self._read().results.drop(columns="folder")

    @property
    def trajectories(self) -> pd.DataFrame:
        """A row per logged step of every ended trial."""
        return self._table("trajectories", self._read().trajectories)

    @property
    def predictions(self) -> pd.DataFrame:
        """A row per finished trial: the predicted class of every test image."""
        return self._table("predictions", self._read().predictions)

    @property
    def matrices(self) -> dict[str, pd.DataFrame]:
        """The matrices of test accuracies by title; rows are sender layers, columns receiver layers."""
        return {matrix.title: matrix.values for matrix in self._matrices()}

    def report(
        self,
        *,
        output: str | Path | None = None,
        measured: bool = True,
        **permissions: Any,
    ) -> Report:
        """Write `report.html` with its figures and tables.

        Args:
            output: the target folder; by default the experiment folder.
            measured: whether to first compute the tables that need networks, images and stored
                stitches.
            **permissions: `run_code`, `allow`, `download`, `track`, `chance`; see
                `stitch_sweep.report.writing.analyze`.

        Returns:
            The report: `page`, `verdicts`, `doubts`.

        Raises:
            InputError: no trial has ended yet, or an argument is wrong.
        """
        with restored_afterwards(), Reporter() as reporter:
            return analyze(
                [self.folder],
                output=None if output is None else Path(output),
                measured=measured,
                on_progress=reporter.step,
                **permissions,
            )

    def verdict(self, *, chance: float | None = None) -> pd.DataFrame:
        """Judge the matrices: triangle, diagonal or another label, and its uncertainty.

        The labels of the test images are stored in the folder first, because intervals need them.

        Args:
            chance: the accuracy of guessing; by default 1 / number of classes.

        Returns:
            A row per matrix, indexed by title, and a row per pair for its excess over the control
            `logits_only`. Columns: `label`; `triangle`, `diagonal` and `order` with the ends of their
            intervals (`triangle_low`, `triangle_high`, ...), which are NaN if they can't be computed;
            `p_value`, `best_accuracy`, `chance`, and `notes`, a list of sentences.

        Raises:
            InputError: no trial has ended yet, or the number of classes is unknown.
        """
        from stitch_sweep.report.findings import derive_findings, headline

        measure_labels(self.folder)
        rows = {}
        findings = derive_findings(self._read(), chance=chance)
        for verdict in [*findings.verdicts, *findings.excesses]:
            row: dict[str, Any] = {"label": headline(verdict)}
            for index in _INDICES:
                interval = verdict.intervals.get(index)
                row[index] = getattr(verdict.parameters, index)
                row[f"{index}_low"] = float("nan") if interval is None else interval.low
                row[f"{index}_high"] = float("nan") if interval is None else interval.high
            row |= {
                "p_value": verdict.p_value,
                "best_accuracy": verdict.best_accuracy,
                "chance": verdict.chance,
                "notes": list(verdict.notes),
            }
            rows[verdict.matrix.title] = row
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("matrix")

    def plot(self, columns: int = 3) -> Figure:
        """Draw the matrices side by side, with one color scale.

        Args:
            columns: the largest number of matrices in a row.

        Returns:
            A matplotlib figure; `figure.savefig("matrices.png")` writes it.

        Raises:
            InputError: no trial has ended yet.
        """
        from stitch_sweep.api.pictures import shown_in_notebooks
        from stitch_sweep.charts.figures import grid

        return shown_in_notebooks(grid(self._matrices(), columns))

    def _repr_html_(self) -> str:
        from stitch_sweep.api.pictures import to_png

        text = f"<p>{html.escape(repr(self))}</p>"
        try:
            figure = self.plot()
        except InputError as error:
            return text + "".join(f"<p>{html.escape(problem)}</p>" for problem in error.problems)
        picture = base64.b64encode(to_png(figure)).decode()
        return f'{text}<img alt="stitching matrices" src="data:image/png;base64,{picture}">'

    def _matrices(self) -> list[Matrix]:
        experiment = self._read()
        return matrices(experiment.results, metric=experiment.metric, mode=experiment.mode)

    def _read(self) -> Experiment:
        return load_experiment(self.folder)

    def _table(self, name: str, table: pd.DataFrame | None) -> pd.DataFrame:
        if table is None:
            raise InputError(
                f"{self.folder}: its {name} are missing or damaged; `stitch-sweep sweep --resume` "
                "rebuilds them"
            )
        return table


def measure_labels(folder: Path) -> None:
    """Store the labels of the test images, and the networks' own results, if they can be loaded."""
    # Not at the top: measuring imports much that the tables don't need.
    from stitch_sweep.measuring.tables import measure

    if Ledger(folder).exists:
        with restored_afterwards():
            measure(folder, only=["networks", "labels"])


def load(folder: str | Path) -> SweepExperiment:
    """Open the experiment folder of a finished or running sweep.

    No code from the folder is executed, and no file is unpickled.

    Args:
        folder: the experiment folder that `stitch-sweep sweep`, `ss.sweep` or `ss.matrix` wrote.

    Raises:
        InputError: the folder contains no sweep.

    Example:
        >>> ss.load("experiments/quickstart/digits").matrices  # doctest: +SKIP
    """
    return SweepExperiment(folder)
