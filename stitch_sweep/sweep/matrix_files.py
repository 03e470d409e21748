"""The matrices and figures of an experiment folder, updated whenever its results change."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from stitch_sweep.analysis.comparison.pareto import pareto_front, pareto_table
from stitch_sweep.analysis.matrix.files import write_matrix
from stitch_sweep.analysis.matrix.knock_out import gap_matrices
from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.results import Mode
from stitch_sweep.analysis.tables import csv_text
from stitch_sweep.charts.search import front_charts
from stitch_sweep.core.errors import InputError
from stitch_sweep.storage import layout
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.manifest import Manifest, replacing_files

MANIFEST = layout.ANALYSIS_MANIFEST
_WRITTEN_FILES = re.compile(
    rf"{re.escape(layout.PARETO_FRONT)}"
    rf"|{layout.MATRICES}/{layout.FILE_STEM}\.csv|{layout.FIGURES}/{layout.FILE_STEM}\.png"
)
_REMEDY = "give the sweep a separate folder"


def write_analysis(
    folder: str | Path,
    results: pd.DataFrame,
    *,
    metric: str = "val_accuracy",
    mode: Mode = "max",
    objectives: Mapping[str, Mode] | None = None,
    knocked_out: Collection[str] = (),
) -> list[Matrix]:
    """Write a `matrices/*.csv` and a `figures/*.png` for each matrix of test accuracies.

    A network whose layers were knocked out gets its gap matrix too. With several objectives,
    `pareto.csv` lists the non-dominated trials of each cell, and each matrix gets a figure of them.

    Files of an earlier call that are no longer written are removed. `.analysis.json` lists the
    written files, so that no other file in the two folders is touched.

    Args:
        folder: the experiment folder.
        results: a row per trial, as `load_results` returns it.
        metric: the column by which the best trials are chosen.
        mode: whether the "max" or the "min" of the metric is best.
        objectives: the searched objectives, if there are several.
        knocked_out: names of the networks that lose layers; see `gap_matrices`.

    Returns:
        The matrices, sorted by pair and factors.

    Raises:
        InputError: the metric is not among the columns, or is computed on test images; or a file
            that would be replaced isn't known to be Stitch Sweep's.
    """
    # Not at the top: Matplotlib takes a second to import, and a sweep has it imported while trials run.
    from stitch_sweep.charts.figures import draw, heatmap, save_figure

    folder = Path(folder)
    all_matrices = matrices(results, metric=metric, mode=mode)
    shown = [*all_matrices, *gap_matrices(all_matrices, knocked_out)]
    fronts = dict(front_charts(results, all_matrices, objectives or {}))
    current = {
        name
        for matrix in shown
        for name in (
            f"{layout.MATRICES}/{matrix.file_name}.csv",
            f"{layout.FIGURES}/{matrix.file_name}.png",
        )
    }
    current |= {f"{layout.FIGURES}/{name}.png" for name in fronts}
    if objectives:
        current.add(layout.PARETO_FRONT)
    with replacing_files(_manifest(folder), current, _REMEDY):
        for matrix in shown:
            write_matrix(matrix, folder / layout.MATRICES)
            save_figure(heatmap(matrix), folder / layout.FIGURES, matrix.file_name)
        for name, describe in fronts.items():
            save_figure(draw(describe()), folder / layout.FIGURES, name)
        if objectives:
            table = pareto_table(pareto_front(results, objectives), objectives)
            write_atomically(folder / layout.PARETO_FRONT, csv_text(table).encode())
    return all_matrices


def check_analysis(
    folder: Path, pairs: Collection[tuple[str, str]], *, with_front: bool = False
) -> None:
    """Check before a sweep that its matrices and figures would replace none of the user's files.

    Args:
        folder: the experiment folder.
        pairs: senders and receivers; the names of the files begin with them.
        with_front: whether there will be a `pareto.csv`.

    Raises:
        InputError: a file with such a name isn't known to be Stitch Sweep's.
    """
    beginnings = [f"{sender}__{receiver}" for sender, receiver in pairs]
    starts = (*beginnings, *(f"pareto__{beginning}" for beginning in beginnings))
    names = {
        f"{subfolder}/{path.name}"
        for subfolder in (layout.MATRICES, layout.FIGURES)
        for path in _list_folder(folder / subfolder)
        if path.name.startswith(starts) and _WRITTEN_FILES.fullmatch(f"{subfolder}/{path.name}")
    }
    if with_front:
        names.add(layout.PARETO_FRONT)
    _manifest(folder).check_free(names, _REMEDY)


def _manifest(folder: Path) -> Manifest:
    return Manifest(folder / MANIFEST, _WRITTEN_FILES, [layout.REPORT_MANIFEST])


def _list_folder(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise InputError(
            f"{folder}: is a file; the sweep writes a folder of this name, so rename the file"
        ) from None
