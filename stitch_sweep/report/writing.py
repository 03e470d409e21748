"""Writing a report: one page, its figures for papers, its tables, kept in step with what is known."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stitch_sweep.analysis.comparison.pareto import front_figures
from stitch_sweep.analysis.matrix.matrices import read_matrix, trials_of
from stitch_sweep.analysis.matrix.verdict import Verdict, judge_bare
from stitch_sweep.analysis.tables import csv_text
from stitch_sweep.charts.figures import grid, heatmap, save_figure
from stitch_sweep.core.errors import InputError
from stitch_sweep.measuring.tables import measure
from stitch_sweep.report import figures, tables
from stitch_sweep.report.cells import trajectories, trials
from stitch_sweep.report.experiment import Experiment, load_experiment, read_measured
from stitch_sweep.report.findings import Findings, analyse, headline, mean_accuracy
from stitch_sweep.report.merging import merge
from stitch_sweep.report.page import Page, group_names
from stitch_sweep.report.runs import Tracking, check_address
from stitch_sweep.report.words import what_is_doubtful
from stitch_sweep.storage.files import check_writable, write_atomically
from stitch_sweep.storage.manifest import ANALYSIS, REPORT, Manifest, in_step

PAGE = "report.html"
MANIFEST = REPORT
_OURS = re.compile(r"report\.html|(figures|tables)/[A-Za-z0-9_-][A-Za-z0-9._-]*\.(png|pdf|csv|tex)")

MOST_PANELS = 24
"""At most so many matrices in one figure; further ones have figures of their own."""
MOST_TRAJECTORIES = 60
"""At most so many figures of trajectories; the page has all."""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: the report.
        findings: per experiment; several where folders were compared.
        doubts: per experiment, what a reader should know, a sentence each.
        files: everything that was written, the page first.
        sent: how many files were attached to the sweep's MLflow run.
    """

    page: Path | None
    findings: list[Findings]
    doubts: list[list[str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    sent: int = 0

    @property
    def verdicts(self) -> list[Verdict]:
        """Of all experiments, in order."""
        return [verdict for findings in self.findings for verdict in findings.verdicts]

    def to_dict(self) -> dict[str, Any]:
        """As JSON: `matrices` has label and indices of each; a lone matrix has them at the top too."""
        listed = [
            {"experiment": "" if f.experiment is None else f.experiment.name, **v.to_dict()}
            for f in self.findings
            for v in f.verdicts
        ]
        lone = {k: v for k, v in listed[0].items() if k != "experiment"} if len(listed) == 1 else {}
        return {
            **lone,
            "report": None if self.page is None else str(self.page),
            "matrices": listed,
            "ladders": [
                {"size": ladder.size, "series": series, **fit.to_dict()}
                for f in self.findings
                for ladder in f.ladders
                for series, fit in ladder.fits.items()
            ],
            "doubts": [text for said in self.doubts for text in said],
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
    on_progress: OnProgress = lambda what, done, total: None,
) -> Report:
    """Analyse experiment folders and write a report.

    Folders that are parts of one study are merged, others compared; see `merging.merge`.

    Args:
        folders: experiment folders, at least one.
        output: where to write; the first folder if not given.
        measured: whether to measure first what needs networks, images and stored stitches.
        run_code: whether measuring may run factories that the folders name; see `measure`.
        allow: further folders that measuring may read from; see `measure`.
        download: libraries whose published weights measuring may load; see `measure`.
        track: address of the MLflow server or store that has the sweeps' runs: trials are linked to
            them, and the report is attached to the sweep's run. None: no server is contacted,
            whatever the folders and the environment name.
        chance: what guessing reaches; None: one in as many classes as there are.
        seed: of the resampling.
        on_progress: told (what, done, in all).

    Raises:
        InputError: a folder is none, is empty, or holds another's files or those of two sweeps.

    Example:
        >>> analyze([Path("experiments/quickstart/digits")]).page  # doctest: +SKIP
    """
    problems = []
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
    target = loaded[0].parts[0].folder if output is None else output
    check_target(target)
    unmeasured: dict[Path, list[str]] = {}
    if measured:
        for k, experiment in enumerate(loaded):
            part = experiment.parts[0]
            unmeasured[part.folder] = _measure(
                part.folder, on_progress, run_code=run_code, allow=allow, download=download
            )
            loaded[k] = read_measured(experiment)
    experiments, apart = merge(loaded)
    tracking = Tracking(experiments, track)
    if track is not None:
        on_progress("tracking", 0, 1)
    addresses = tracking.addresses()
    page = Page(_title(experiments), addresses)
    page.apart = apart
    found, doubts = [], []
    for k, experiment in enumerate(experiments):
        on_progress("analysis", k, len(experiments))
        findings = analyse(experiment, chance=chance, seed=seed)
        several = len(experiment.parts) > 1
        said = [
            f"{part.name}: {text}" if several else text
            for part in experiment.parts
            for text in unmeasured.get(part.folder, [])
        ]
        said += tracking.notes
        page.add(findings, said)
        found.append(findings)
        doubts.append(what_is_doubtful(findings, said))
    if len(found) > 1:
        page.comparison = comparison(found)
    files = write(target, page, found, on_progress)
    sent = tracking.send(target, files)
    return Report(target / PAGE, found, doubts, files, sent)


MOST_CELLS = 10_000
"""Cells of a bare matrix, whose resampling takes memory for 2000 of each."""


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
    """Analyse a bare matrix from a CSV file; a report is written where `output` says.

    Args:
        file: as `analysis.read_matrix` takes it.
        output: a folder; nothing is written if not given.
        chance: what guessing reaches.
        sender_accuracy: the sender's own test accuracy; one of the two is needed.
        receiver_accuracy: the receiver's own.
        test_images: how many images the accuracies are of; without it there are no intervals.
        seed: of the resampling.

    Raises:
        InputError: the file holds no matrix of accuracies, or an option can't be.
    """
    values = read_matrix(file)
    if values.size > MOST_CELLS:
        raise InputError(f"{file}: has {values.size} cells, and {MOST_CELLS} is the most")
    if math.isnan(sender_accuracy) and math.isnan(receiver_accuracy):
        raise InputError(
            "--sender-accuracy or --receiver-accuracy: at least one of the two networks' own "
            "accuracies is needed: without them a low matrix of good networks can't be told from a "
            "high one of poor networks"
        )
    verdict = judge_bare(
        values,
        chance=chance,
        sender_accuracy=sender_accuracy,
        receiver_accuracy=receiver_accuracy,
        test_images=test_images,
        seed=seed,
    )
    findings = Findings(None, [verdict], chance)
    doubts = what_is_doubtful(findings)
    if output is None:
        return Report(None, [findings], [doubts])
    check_target(output)
    page = Page(f"Stitching matrix {file.name}")
    page.add(findings)
    files = write(output, page, [findings])
    return Report(output / PAGE, [findings], [doubts], files)


def check_target(folder: Path) -> None:
    """Check that a report can be written there.

    Raises:
        InputError: it can't, it would be written through a link to another place, or a page that isn't
            known to be Stitch Sweep's is there.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: is a file, a folder is wanted")
    problems = [
        f"{path}: is a link or a file, and the report writes a folder of that name; remove it or "
        "choose another folder with --output"
        for path in (folder / "figures", folder / "tables")
        if path.is_symlink() or (path.exists() and not path.is_dir())
    ]
    if problems:
        raise InputError(*problems)
    check_writable(folder / PAGE, "the report")
    _manifest(folder).check_free([PAGE], _REMEDY)


_REMEDY = "choose another folder with --output"


def _manifest(folder: Path) -> Manifest:
    return Manifest(folder / MANIFEST, _OURS, [ANALYSIS])


def _title(experiments: Sequence[Experiment]) -> str:
    return f"Model stitching: {' and '.join(experiment.name for experiment in experiments)}"


def _measure(folder: Path, on_progress: OnProgress, **permissions: Any) -> list[str]:
    """What could not be measured and why, a sentence each."""
    try:
        return measure(
            folder,
            **permissions,
            on_progress=lambda table, done, total: on_progress(f"measuring {table}", done, total),
        ).notes
    except InputError as error:
        return [f"nothing could be measured: {problem}" for problem in error.problems]


def comparison(found: Sequence[Findings]) -> tables.Table:
    """The matrices of several experiments side by side.

    Args:
        found: at least two, each of an experiment.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    names = _distinct([f.experiment.name for f in found if f.experiment is not None])
    for name, findings in zip(names, found, strict=True):
        for verdict in findings.verdicts:
            matrix = verdict.matrix
            row = rows.setdefault((matrix.sender, matrix.receiver, matrix.factor_text), {})
            row |= {
                f"{name}: label": headline(verdict),
                f"{name}: triangle": verdict.parameters.triangle,
                f"{name}: diagonal": verdict.parameters.diagonal,
                f"{name}: mean accuracy": mean_accuracy(verdict),
            }
    frame = pd.DataFrame(
        [
            {"sender": sender, "receiver": receiver, "factors": factors, **row}
            for (sender, receiver, factors), row in rows.items()
        ]
    )
    shown = [tables.Column("sender", "sender"), tables.Column("receiver", "receiver")]
    if (frame["factors"] != "").any():
        shown.append(tables.Column("factors", "factors"))
    for name in names:
        shown.append(tables.Column(f"{name}: label", f"{name}: shape"))
        for value, digits in (("triangle", 2), ("diagonal", 2), ("mean accuracy", 3)):
            column = f"{name}: {value}"
            shown.append(tables.Column(column, value, tables.fixed(digits), number=True))
    note = "Matrices of the same names and factors stand in one row; their networks and data may differ."
    return tables.Table("compared", "The experiments compared", note, frame, shown)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, those that occur twice with a number."""
    return [
        name if list(names).count(name) == 1 else f"{name} ({k + 1})"
        for k, name in enumerate(names)
    ]


def write(
    folder: Path,
    page: Page,
    found: Sequence[Findings],
    on_progress: OnProgress = lambda what, done, total: None,
) -> list[Path]:
    """Write page, figures and tables; what an earlier report wrote and this one doesn't goes.

    Args:
        folder: where to.
        page: the page.
        found: what figures and tables are made of.
        on_progress: told ("figures", done, in all).

    Returns:
        The files, the page first.
    """
    pictures: dict[str, Callable[[], Figure]] = {}
    texts: dict[str, Callable[[], str]] = {}
    for k, findings in enumerate(found):
        start = "" if len(found) == 1 else f"{k + 1}-{tables.safe_name(_name(findings))}__"
        for name, draw in drawings(findings):
            pictures[start + name] = draw
        for table in tables.all_tables(findings):
            texts[f"tables/{start}{table.name}.csv"] = table.csv
            texts[f"tables/{start}{table.name}.tex"] = table.latex
        # A row per cell is for programs: no page of a paper holds it.
        if findings.agreement is not None and len(findings.agreement):
            cells = partial(csv_text, findings.agreement)
            texts[f"tables/{start}agreement_cells.csv"] = cells
    if page.comparison is not None:
        texts["tables/compared.csv"] = page.comparison.csv
        texts["tables/compared.tex"] = page.comparison.latex
    drawn = [f"figures/{name}.{suffix}" for name in pictures for suffix in ("png", "pdf")]
    current = [PAGE, *drawn, *texts]
    with in_step(_manifest(folder), current, _REMEDY):
        for name, text in texts.items():
            write_atomically(folder / name, text().encode())
        for k, (name, draw) in enumerate(pictures.items()):
            on_progress("figures", k, len(pictures))
            save_figure(draw(), folder / "figures", name, pdf=True)
        on_progress("figures", len(pictures), len(pictures))
        write_atomically(folder / PAGE, page.html().encode())
    return [folder / name for name in current]


def _name(findings: Findings) -> str:
    return "matrix" if findings.experiment is None else findings.experiment.name


def drawings(findings: Findings) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Every figure as (name, what draws it)."""
    verdicts, experiment = findings.verdicts, findings.experiment
    for verdict in verdicts:
        yield verdict.matrix.file_name, partial(heatmap, verdict.matrix)
    for gaps in findings.gaps:
        yield gaps.file_name, partial(heatmap, gaps)
    pairs = [v.matrix for v in verdicts if v.control is None]
    for value in dict.fromkeys(matrix.value_name for matrix in pairs):
        alike = [matrix for matrix in pairs if matrix.value_name == value]
        if len(alike) > 1:
            name = "matrices" if value == "test_accuracy" else f"matrices_{value}"
            for k, start in enumerate(range(0, len(alike), MOST_PANELS)):
                numbered = f"{name}_{k + 1}" if k else name
                yield numbered, partial(grid, alike[start : start + MOST_PANELS])
    for ladder in findings.ladders:
        yield f"ladder_{ladder.size}", partial(figures.ladder, ladder)
    regional = findings.representations
    if regional is not None and len(regional):
        wanted = [
            q
            for q in ("ev_relative", "es_relative", "sv_relative")
            if (regional["quantity"] == q).any()
        ]
        if wanted:
            yield "representations", partial(figures.regions, regional, wanted)
    square = tables.correlation_frame(findings)
    if square is not None:
        yield "correlations", partial(figures.correlations, square)
    if (probes := tables.probe_table(findings)) is not None:
        yield "probes", partial(figures.probes, probes.frame)
    if (mattered := tables.importance_table(findings)) is not None:
        yield (
            "importances",
            partial(figures.importances, mattered.frame, group_names(mattered.frame)),
        )
    if experiment is not None:
        shown = [verdict.matrix for verdict in verdicts]
        yield from front_figures(experiment.results, shown, experiment.objectives)
        yield from _image_drawings(experiment)
        yield from _trajectory_drawings(experiment, verdicts)


def _image_drawings(experiment: Experiment) -> Iterator[tuple[str, Callable[[], Figure]]]:
    for k, pictures in enumerate(experiment.pictures):
        pairs = dict.fromkeys((p.about["sender"], p.about["receiver"]) for p in pictures.pictures)
        for sender, receiver in pairs:
            members = [
                p
                for p in pictures.pictures
                if (p.about["sender"], p.about["receiver"]) == (sender, receiver)
            ]
            members.sort(
                key=lambda p: (p.about["sender_layer"], p.about["kind"], str(p.about["loss"]))
            )
            name = f"images{k or ''}__{tables.safe_name(str(sender))}__{tables.safe_name(str(receiver))}"
            yield name, partial(figures.images, pictures, members)


def _trajectory_drawings(
    experiment: Experiment, verdicts: Iterable[Verdict]
) -> Iterator[tuple[str, Callable[[], Figure]]]:
    known, steps = trajectories(experiment, trials(experiment, {}))
    if not any(path["accuracy"] for path in known.values()):
        return
    for verdict in list(verdicts)[:MOST_TRAJECTORIES]:
        matrix = verdict.matrix
        rows = trials_of(experiment.results, matrix)
        paths = _paths(rows, known, steps)
        draw = partial(
            figures.trajectories,
            paths,
            [int(k) for k in matrix.values.index],
            [int(k) for k in matrix.values.columns],
            "validation accuracy",
        )
        yield f"trajectories__{matrix.file_name}", draw


def _paths(
    rows: pd.DataFrame, known: Mapping[str, Mapping[str, Any]], steps: Sequence[Sequence[float]]
) -> dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]]:
    found: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    for trial, i, j in rows[["trial", "sender_layer", "receiver_layer"]].itertuples(index=False):
        path = known.get(str(trial))
        if path is not None and path["accuracy"]:
            curve = (np.array(steps[path["xv"]]), np.array(path["accuracy"]))
            found.setdefault((int(i), int(j)), []).append(curve)
    return found
