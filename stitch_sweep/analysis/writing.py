"""The matrices and figures of an experiment folder, kept in step with its results."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from stitch_sweep.analysis.figures import heatmap, save_figure
from stitch_sweep.analysis.knock_out import gap_matrices
from stitch_sweep.analysis.matrices import Matrix, matrices, write_matrix
from stitch_sweep.analysis.pareto import front_figures, pareto_front, pareto_table
from stitch_sweep.analysis.results import Mode
from stitch_sweep.analysis.tables import csv_text
from stitch_sweep.errors import InputError
from stitch_sweep.files import write_atomically
from stitch_sweep.untrusted import read_json

MANIFEST = ".analysis.json"
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

    Files that an earlier call wrote and this one doesn't are removed; a list of ours is kept in
    `.analysis.json`, so that nothing else in the two folders is touched.

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
        InputError: the metric is not among the columns, or is computed on test images.
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
    with in_step(folder / MANIFEST, current, _OURS):
        for matrix in shown:
            write_matrix(matrix, folder / "matrices")
            save_figure(heatmap(matrix), folder / "figures", matrix.file_name)
        for name, draw in fronts.items():
            save_figure(draw(), folder / "figures", name)
        if objectives:
            table = pareto_table(pareto_front(results, objectives), objectives)
            write_atomically(folder / _FRONT, csv_text(table).encode())
    return found


@contextmanager
def in_step(manifest: Path, current: Collection[str], ours: re.Pattern[str]) -> Iterator[None]:
    """Around the writing of files: what an earlier call wrote and this one doesn't is removed.

    Args:
        manifest: the file that lists them, in the folder that their names are relative to.
        current: names of all files that the block writes.
        ours: what such a name looks like. A manifest can be edited; nothing else is ever removed.
    """
    stale = _written_before(manifest, ours) - set(current)
    # Listed before they exist: a file that is written and then forgotten would stay for ever.
    _write_manifest(manifest, {*current, *stale})
    yield
    for name in stale:
        path = manifest.parent / name
        if not (path.is_dir() or path.parent.is_symlink()):  # no file of this folder
            path.unlink(missing_ok=True)
    _write_manifest(manifest, set(current))


def _written_before(manifest: Path, ours: re.Pattern[str]) -> set[str]:
    try:
        names = read_json(manifest).get("files")
    except (FileNotFoundError, InputError):
        return set()
    listed = names if isinstance(names, list) else []
    return {name for name in listed if isinstance(name, str) and ours.fullmatch(name)}


def _write_manifest(manifest: Path, files: set[str]) -> None:
    content = json.dumps({"files": sorted(files)}, indent=1) + "\n"
    write_atomically(manifest, content.encode())
