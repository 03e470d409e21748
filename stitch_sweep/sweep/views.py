"""The views of a ledger: tables, Optuna's studies, matrices. All of them can be deleted and rebuilt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.results import check_results
from stitch_sweep.config.root import Config
from stitch_sweep.plan.sizes import count_samples, count_trials
from stitch_sweep.storage import layout
from stitch_sweep.storage.files import atomic, write_atomically
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.manifest import Manifest
from stitch_sweep.storage.study import Study
from stitch_sweep.sweep.matrix_files import check_analysis, write_analysis
from stitch_sweep.sweep.optuna_journal import has_journal, write_optuna_journal
from stitch_sweep.sweep.result_tables import predictions_table, results_table, trajectory_table

_TABLES = (
    layout.RESULTS,
    layout.PREDICTIONS,
    layout.TRAJECTORIES,
    layout.PICKLED_TRAJECTORIES,
    layout.SUMMARY,
)
_VIEW_NAMES = re.compile(
    "|".join(map(re.escape, (*_TABLES, layout.OPTUNA_JOURNAL, layout.RESOLVED_CONFIG)))
)


def check_views(folder: Path, studies: Iterable[Study], config: Config, *, is_new: bool) -> None:
    """Check that a sweep would replace none of the user's files.

    Args:
        folder: the experiment folder.
        studies: of the sweep.
        config: its configuration.
        is_new: whether the folder has no ledger yet. If it has a ledger, the sweep wrote the tables.

    Raises:
        InputError: a file that would be replaced isn't in a manifest of Stitch Sweep.
    """
    if is_new:
        journal = [layout.OPTUNA_JOURNAL] if has_journal(config) else []
        names = {*_TABLES, layout.RESOLVED_CONFIG, *journal}
        _manifest(folder).check_free(names, "give the sweep a separate folder")
    pairs = {(study.sender, study.receiver) for study in studies}
    check_analysis(folder, pairs, with_front=bool(config.search.objectives))


def write_views(
    folder: Path, studies: Iterable[Study], config: Config
) -> tuple[pd.DataFrame, list[Matrix]]:
    """Rebuild all views of the ledger.

    Writes `results.parquet`, `predictions.parquet`, `traj.parquet`, `traj.pkl`, `optuna.log`,
    `summary.json`, `matrices/` and `figures/`; with several objectives also `pareto.csv`. `.sweep.json`
    and `.analysis.json` list them.

    Args:
        folder: the experiment folder.
        studies: of the sweep.
        config: its configuration.

    Returns:
        The results, a row per ended trial in the order of the studies, and the matrices.

    Raises:
        RecordError: a record can't be used.
    """
    studies = list(studies)
    records = list(ended_records(Ledger(folder), studies, config))
    manifest, current = _manifest(folder), {layout.RESOLVED_CONFIG}
    if has_journal(config):
        current.add(layout.OPTUNA_JOURNAL)
    if records:
        current |= set(_TABLES)
    manifest.begin(current)
    write_optuna_journal(folder / layout.OPTUNA_JOURNAL, studies, records, config)
    if not records:
        manifest.finish(current)
        return pd.DataFrame(), []
    kinds = {network.name: network.kind for network in config.networks}
    results = check_results(results_table(records, kinds))
    trajectories = trajectory_table(records)
    for name, table in {
        layout.RESULTS: results,
        layout.PREDICTIONS: predictions_table(records),
        layout.TRAJECTORIES: trajectories,
    }.items():
        with atomic(folder / name) as temporary:
            table.to_parquet(temporary)
    with atomic(folder / layout.PICKLED_TRAJECTORIES) as temporary:
        trajectories.to_pickle(temporary)
    matrices = write_analysis(
        folder,
        results,
        metric=config.search.metric,
        mode=config.search.mode,
        objectives=config.search.objectives,
        knocked_out={part.network for part in config.knock_out},
    )
    summary = {
        "trials": len(records),
        "finished": int((results["status"] == "finished").sum()),
        "failed": int((results["status"] == "failed").sum()),
        "stopped": int((results["status"] == "stopped").sum()),
        "copied": int(results["copied_from"].notna().sum()),
        "not_converged": int((results["converged"] == False).sum()),  # noqa: E712 (nullable)
        "not_run": sum(count_trials(config, studies)) - len(records),
        "compute_seconds": float(results["seconds"].sum()),
        "matrices": [matrix.file_name for matrix in matrices],
    }
    write_atomically(folder / layout.SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
    manifest.finish(current)
    return results, matrices


def ended_records(
    ledger: Ledger, studies: Iterable[Study], config: Config
) -> Iterator[dict[str, Any]]:
    """Iterate over the records of ended trials, in the order of studies and numbers.

    Each record is read when the iterator reaches it, because all records together take much memory.

    Raises:
        RecordError: a record can't be used.
    """
    trials = ledger.trial_ids()
    for study in studies:
        for number in range(count_samples(config, study)):
            if (trial := study.trial(number)) in trials:
                record = ledger.read(trial)
                if record is not None and record["status"] != "running":
                    yield record


def _manifest(folder: Path) -> Manifest:
    return Manifest(folder / layout.SWEEP_MANIFEST, _VIEW_NAMES)
