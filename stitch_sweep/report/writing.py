"""Analyzing experiment folders, or a bare matrix, and writing a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stitch_sweep.analysis.matrix.files import read_matrix
from stitch_sweep.analysis.matrix.judging import judge_bare
from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.core.errors import InputError
from stitch_sweep.report.comparison import comparison_table
from stitch_sweep.report.doubts import list_doubts
from stitch_sweep.report.experiment import Experiment
from stitch_sweep.report.files import OnProgress, check_target, write
from stitch_sweep.report.findings import Findings, derive_findings
from stitch_sweep.report.merging import merge
from stitch_sweep.report.page.page import Page
from stitch_sweep.report.reading import load_experiment, read_measured
from stitch_sweep.report.runs import Tracking, check_address
from stitch_sweep.storage import layout

MAX_BARE_CELLS = 10_000
"""Largest number of cells of a bare matrix: the resampling stores 2000 values for each."""


@dataclass(frozen=True)
class Report:
    """A written report.

    Attributes:
        page: the page's file; None if nothing was written.
        findings: one per experiment; several if folders were compared.
        doubts: per experiment, reasons to doubt the findings, a sentence each.
        files: all written files, the page first.
        sent: number of files that were attached to the sweep's MLflow run.
    """

    page: Path | None
    findings: list[Findings]
    doubts: list[list[str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    sent: int = 0

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts of all experiments, in order."""
        return [verdict for findings in self.findings for verdict in findings.verdicts]

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON.

        `matrices` has the label and indices of each matrix; those of a single matrix are at the top
        level too.
        """
        matrices = [
            {"experiment": "" if f.experiment is None else f.experiment.name, **v.to_dict()}
            for f in self.findings
            for v in f.verdicts
        ]
        single = matrices[0] if len(matrices) == 1 else {}
        return {
            **{k: v for k, v in single.items() if k != "experiment"},
            "report": None if self.page is None else str(self.page),
            "matrices": matrices,
            "ladders": [
                {"size": ladder.size, "series": series, **fit.to_dict()}
                for f in self.findings
                for ladder in f.ladders
                for series, fit in ladder.fits.items()
            ],
            "doubts": [text for doubts in self.doubts for text in doubts],
        }


def analyze(
    folders: Sequence[Path],
    *,
    output: Path | None = None,
    measured: bool = True,
    run_code: bool = False,
    allow: Sequence[Path] = (),
    download: Sequence[str] = (),
    track: str | None = None,
    chance: float | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda step, done, total: None,
) -> Report:
    """Analyze experiment folders and write a report.

    Folders with parts of the same experiment are merged; other folders are compared. See
    `merging.merge`.

    Args:
        folders: experiment folders, at least one.
        output: the target folder; None: the first folder.
        measured: whether to first compute the tables that need networks, images and stored stitches.
        run_code: whether measuring may run factories that the folders name; see `measure`.
        allow: further folders that measuring may read from; see `measure`.
        download: libraries whose published weights measuring may load; see `measure`.
        track: address of the MLflow server or store with the sweeps' runs: trials link to their runs,
            and the report is attached to the sweep's run. None: no server is contacted, even if the
            folders or the environment name one.
        chance: the accuracy of guessing; None: 1 / number of classes.
        seed: seed of the resampling.
        on_progress: called with (step, done, total).

    Raises:
        InputError: a path is not an experiment folder or has no trials, or a folder has files of another
            program or of two sweeps.

    Example:
        >>> analyze([Path("experiments/quickstart/digits")]).page  # doctest: +SKIP
    """
    loaded = _load(folders, chance, track)
    target = loaded[0].parts[0].folder if output is None else output
    check_target(target)
    unmeasured: dict[Path, list[str]] = {}
    if measured:
        for k, experiment in enumerate(loaded):
            folder = experiment.parts[0].folder
            unmeasured[folder] = _measure(
                folder, on_progress, run_code=run_code, allow=allow, download=download
            )
            loaded[k] = read_measured(experiment)
    experiments, reasons = merge(loaded)
    tracking = Tracking(experiments, track)
    if track is not None:
        on_progress("tracking", 0, 1)
    page = Page(_title(experiments), tracking.addresses())
    page.separate = reasons
    all_findings, doubts = [], []
    for k, experiment in enumerate(experiments):
        on_progress("analysis", k, len(experiments))
        findings = derive_findings(experiment, chance=chance, seed=seed)
        notes = [*_name_folders(experiment, unmeasured), *tracking.notes]
        page.add(findings, notes)
        all_findings.append(findings)
        doubts.append(list_doubts(findings, notes))
    if len(all_findings) > 1:
        page.comparison = comparison_table(all_findings)
    files = write(target, page, all_findings, on_progress)
    sent = tracking.send(target, files)
    return Report(target / layout.REPORT_PAGE, all_findings, doubts, files, sent)


def write_page(folder: Path) -> Report:
    """Write the page of one experiment, without files of figures and tables.

    Nothing is measured, but measurements that the folder has are shown.

    Raises:
        InputError: the folder can't be read, or has a page of another program.
    """
    (loaded,) = _load([folder], None, None)
    check_target(folder)
    (experiment,), _ = merge([read_measured(loaded)])
    findings = derive_findings(experiment)
    page = Page(_title([experiment]))
    page.add(findings)
    files = write(folder, page, [findings], page_only=True)
    return Report(files[0], [findings], [list_doubts(findings)], files)


def _load(folders: Iterable[Path], chance: float | None, track: str | None) -> list[Experiment]:
    """Load all folders and check the options; all problems are raised together."""
    problems: list[str] = []
    loaded: list[Experiment] = []
    for folder in dict.fromkeys(Path(folder) for folder in folders):
        try:
            loaded.append(load_experiment(folder))
        except InputError as error:
            problems += error.problems
    if chance is not None and not 0 <= chance < 1:
        problems.append(f"--chance {chance:g}: is not an accuracy; allowed: 0 <= chance < 1")
    if track is not None:
        try:
            check_address(track)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)
    return loaded


def _measure(folder: Path, on_progress: OnProgress, **permissions: Any) -> list[str]:
    """Measure a folder's stitches; return failed measurements with their reasons."""
    # Imports torch, which a report without measuring doesn't need.
    from stitch_sweep.measuring.tables import measure

    try:
        return measure(
            folder,
            **permissions,
            on_progress=lambda table, done, total: on_progress(f"measuring {table}", done, total),
        ).notes
    except InputError as error:
        return [f"nothing could be measured: {problem}" for problem in error.problems]


def _name_folders(experiment: Experiment, unmeasured: dict[Path, list[str]]) -> list[str]:
    """Return the failed measurements of an experiment; of several folders, with their names."""
    has_several = len(experiment.parts) > 1
    return [
        f"{part.name}: {text}" if has_several else text
        for part in experiment.parts
        for text in unmeasured.get(part.folder, [])
    ]


def _title(experiments: Sequence[Experiment]) -> str:
    return f"Model stitching: {' and '.join(experiment.name for experiment in experiments)}"


def analyze_matrix(
    file: Path,
    *,
    output: Path | None = None,
    chance: float = 0.1,
    sender_accuracy: float = math.nan,
    receiver_accuracy: float = math.nan,
    test_images: int | None = None,
    seed: int = 0,
) -> Report:
    """Analyze a bare matrix from a CSV file, and write a report if `output` is given.

    Args:
        file: a file for `analysis.matrix.files.read_matrix`.
        output: the target folder; None: nothing is written.
        chance: the accuracy of guessing.
        sender_accuracy: the sender's own test accuracy; NaN if unknown.
        receiver_accuracy: the receiver's own test accuracy. If both are unknown, the matrix's maximum
            counts as 1.
        test_images: number of images behind the accuracies; None: no intervals.
        seed: seed of the resampling.

    Raises:
        InputError: the file has no matrix of accuracies, or an option is out of range.
    """
    values = read_matrix(file)
    if values.size > MAX_BARE_CELLS:
        raise InputError(f"{file}: has {values.size} cells; at most {MAX_BARE_CELLS} are allowed")
    verdict = judge_bare(
        values,
        chance=chance,
        sender_accuracy=sender_accuracy,
        receiver_accuracy=receiver_accuracy,
        test_images=test_images,
        seed=seed,
    )
    findings = Findings(None, [verdict], chance)
    doubts = list_doubts(findings)
    if output is None:
        return Report(None, [findings], [doubts])
    check_target(output)
    page = Page(f"Stitching matrix {file.name}")
    page.add(findings)
    files = write(output, page, [findings])
    return Report(output / layout.REPORT_PAGE, [findings], [doubts], files)
