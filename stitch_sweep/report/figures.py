"""The charts that a report writes as PNG and PDF files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from stitch_sweep.analysis.matrix.matrices import trials_of
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.charts.elements import Chart, ImageTable
from stitch_sweep.charts.ladder import describe_ladder
from stitch_sweep.charts.matrices import describe_correlations, describe_matrices
from stitch_sweep.charts.networks import describe_probes
from stitch_sweep.charts.representations import describe_regions
from stitch_sweep.charts.search import describe_importances, front_charts
from stitch_sweep.charts.trajectories import Path, describe_trajectories
from stitch_sweep.measuring.pictures import Picture, Pictures
from stitch_sweep.report.cells import describe_trials, thin_trajectories
from stitch_sweep.report.experiment import Experiment, pictures_by_pair
from stitch_sweep.report.findings import Findings
from stitch_sweep.report.tables.losses import correlation_frame
from stitch_sweep.report.tables.networks import probe_table
from stitch_sweep.report.tables.search import group_names, importance_table
from stitch_sweep.report.tables.table import safe_name

MAX_PANELS = 24
"""Largest number of matrices in one figure; further ones get figures of their own."""
MAX_TRAJECTORIES = 60
"""Largest number of figures of trajectories; the page has all trajectories."""

NamedChart = tuple[str, Callable[[], Chart]]
"""A file name without suffix, and a function that describes the chart."""


def list_charts(findings: Findings) -> Iterator[NamedChart]:
    """Iterate over all charts of an experiment."""
    verdicts, experiment = findings.verdicts, findings.experiment
    excesses = [excess.matrix for excess in findings.excesses]
    for matrix in [*(verdict.matrix for verdict in verdicts), *excesses, *findings.gaps]:
        yield matrix.file_name, partial(describe_matrices, [matrix], columns=1)
    yield from _matrix_grids([*(v.matrix for v in verdicts if v.control is None), *excesses])
    for ladder in findings.ladders:
        draw = partial(describe_ladder, ladder.size, ladder.points, ladder.fits)
        yield f"ladder_{ladder.size}", draw
    if (representations := findings.representations) is not None:
        for name, quantities in findings.representation_quantities.items():
            yield name, partial(describe_regions, representations, quantities)
    if (square := correlation_frame(findings)) is not None:
        yield "correlations", partial(describe_correlations, square)
    if (probes := probe_table(findings)) is not None:
        yield "probes", partial(describe_probes, probes.frame)
    if (importances := importance_table(findings)) is not None:
        frame = importances.frame
        yield "importances", partial(describe_importances, frame, group_names(frame))
    if experiment is not None:
        matrices = [verdict.matrix for verdict in verdicts]
        yield from front_charts(experiment.results, matrices, experiment.objectives)
        yield from _image_charts(experiment)
        yield from _trajectory_charts(experiment, verdicts)


def _matrix_grids(matrices: Sequence[Matrix]) -> Iterator[NamedChart]:
    """Iterate over figures with several matrices of one kind of value."""
    for value in dict.fromkeys(matrix.value_name for matrix in matrices):
        alike = [matrix for matrix in matrices if matrix.value_name == value]
        if len(alike) < 2:
            continue
        name = "matrices" if value == "test_accuracy" else f"matrices_{value}"
        for k, start in enumerate(range(0, len(alike), MAX_PANELS)):
            panels = alike[start : start + MAX_PANELS]
            yield f"{name}_{k + 1}" if k else name, partial(describe_matrices, panels)


def _image_charts(experiment: Experiment) -> Iterator[NamedChart]:
    for k, pictures in enumerate(experiment.pictures):
        for (sender, receiver), members in pictures_by_pair(pictures).items():
            name = f"images{k or ''}__{safe_name(sender)}__{safe_name(receiver)}"
            yield name, partial(_describe_images, pictures, members)


def _describe_images(pictures: Pictures, members: Sequence[Picture]) -> ImageTable:
    rows = [("the image", pictures.originals)]
    rows += [(f"layer {p.about['sender_layer']}, {p.about['loss']}", p.images) for p in members]
    return ImageTable(rows)


def _trajectory_charts(experiment: Experiment, verdicts: Iterable[Verdict]) -> Iterator[NamedChart]:
    trajectories, steps = thin_trajectories(experiment, describe_trials(experiment, {}))
    if not any(path["accuracy"] for path in trajectories.values()):
        return
    for verdict in list(verdicts)[:MAX_TRAJECTORIES]:
        matrix = verdict.matrix
        rows = trials_of(experiment.results, matrix)
        describe = partial(
            describe_trajectories,
            _paths_of_cells(rows, trajectories, steps),
            [int(k) for k in matrix.values.index],
            [int(k) for k in matrix.values.columns],
            "validation accuracy",
        )
        yield f"trajectories__{matrix.file_name}", describe


def _paths_of_cells(
    trials: pd.DataFrame,
    trajectories: Mapping[str, Mapping[str, Any]],
    steps: Sequence[Sequence[float]],
) -> dict[tuple[int, int], list[Path]]:
    paths: dict[tuple[int, int], list[Path]] = {}
    for trial, i, j in trials[["trial", "sender_layer", "receiver_layer"]].itertuples(index=False):
        trajectory = trajectories.get(str(trial))
        if trajectory is not None and trajectory["accuracy"]:
            path = (steps[trajectory["xv"]], trajectory["accuracy"])
            paths.setdefault((int(i), int(j)), []).append(path)
    return paths
