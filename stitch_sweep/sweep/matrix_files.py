"""The matrices and figures of an experiment folder, kept in step with its results."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from stitch_sweep.analysis.comparison.pareto import front_figures, pareto_front, pareto_table
from stitch_sweep.analysis.matrix.knock_out import gap_matrices
from stitch_sweep.analysis.matrix.matrices import Matrix, matrices, write_matrix
from stitch_sweep.analysis.results import Mode
from stitch_sweep.analysis.tables import csv_text
from stitch_sweep.charts.figures import heatmap, save_figure
from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.files import write_atomically
from stitch_sweep.storage.manifest import ANALYSIS, REPORT, Manifest, in_step

MANIFEST = ANALYSIS
_FRONT = "pareto.csv"
_OURS = re.compile(
    r"(pareto\.csv|matrices/[A-Za-z0-9_-][A-Za-z0-9._-]*\.csv|figures/[A-Za-z0-9_-][A-Za-z0-9._-]*\.png)"
)


def write_analysis(
    folder: str | Path,
    results: pd.DataFrame,
    *,
    metric: str = "val_accuracy",
    mode: Mode = "max",
    objectives: Mapping[str, Mode] | None = None,
    knocked_out: Collection[str] = (),
) -> list[Matrix]:
    """Write `matrices/*.csv` and `figures/*.png`, one of each per matrix of test accuracies.

    Where layers were knocked out of a network, its gap matrix too.

    With several objectives also `pareto.csv`, what no other trial of its cell dominates, and a figure
    of the fronts per matrix.

    Files that an earlier call wrote and this one doesn't are removed; `.analysis.json` lists them, so
    that nothing else in the two folders is touched.

    Args:
        folder: the experiment folder.
        results: a row per trial, as `load_results` returns it.
        metric: the column that chose trials.
        mode: whether "max" or "min" of it is best.
        objectives: what was searched, where that is more than the metric.
        knocked_out: names of the networks that were to lose layers; see `gap_matrices`.

    Returns:
        The matrices, sorted by pair and factors.

    Raises:
        InputError: the metric is not among the columns, or is computed on test images; or a file
            that would be replaced isn't known to be Stitch Sweep's.
    """
    folder = Path(folder)
    found = matrices(results, metric=metric, mode=mode)
    shown = [*found, *gap_matrices(found, knocked_out)]
    fronts = dict(front_figures(results, found, objectives or {}))
    current = {
        name
        for matrix in shown
        for name in (f"matrices/{matrix.file_name}.csv", f"figures/{matrix.file_name}.png")
    }
    current |= {f"figures/{name}.png" for name in fronts} | ({_FRONT} if objectives else set())
    with in_step(_manifest(folder), current, _REMEDY):
        for matrix in shown:
            write_matrix(matrix, folder / "matrices")
            save_figure(heatmap(matrix), folder / "figures", matrix.file_name)
        for name, draw in fronts.items():
            save_figure(draw(), folder / "figures", name)
        if objectives:
            table = pareto_table(pareto_front(results, objectives), objectives)
            write_atomically(folder / _FRONT, csv_text(table).encode())
    return found


def check_analysis(
    folder: Path, pairs: Collection[tuple[str, str]], *, with_front: bool = False
) -> None:
    """Check before a sweep that no file of the user's is in the way of its matrices and figures.

    Args:
        folder: the experiment folder.
        pairs: senders and receivers, with which the names of the files begin.
        with_front: whether there will be a `pareto.csv`.

    Raises:
        InputError: a file with such a name isn't known to be Stitch Sweep's.
    """
    beginnings = [f"{sender}__{receiver}" for sender, receiver in pairs]
    starts = (*beginnings, *(f"pareto__{beginning}" for beginning in beginnings))
    names = {
        f"{place}/{path.name}"
        for place in ("matrices", "figures")
        for path in _listed(folder / place)
        if path.name.startswith(starts) and _OURS.fullmatch(f"{place}/{path.name}")
    }
    _manifest(folder).check_free(names | ({_FRONT} if with_front else set()), _REMEDY)


_REMEDY = "give the sweep a folder of its own"


def _manifest(folder: Path) -> Manifest:
    return Manifest(folder / MANIFEST, _OURS, [REPORT])


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise InputError(f"{folder}: is a file, and a folder of this name is written to") from None
