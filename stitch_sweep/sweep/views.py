"""Views of the ledger: tables, Optuna's studies, matrices. All of them can be deleted and rebuilt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from pydantic import ValidationError

from stitch_sweep.analysis.matrix.matrices import Matrix
from stitch_sweep.analysis.results import PAIR, check_results
from stitch_sweep.config.models import Config, LossConfig, label
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.search import StudySearch, outcome_of, samples_per_study
from stitch_sweep.storage import scratch
from stitch_sweep.storage.files import atomic, write_atomically
from stitch_sweep.storage.ledger import Ledger, Study, predictions_of
from stitch_sweep.storage.manifest import SWEEP, Manifest
from stitch_sweep.sweep.matrix_files import check_analysis, write_analysis

_TABLES = ("results.parquet", "predictions.parquet", "traj.parquet", "traj.pkl", "summary.json")
_STUDIES = "optuna.log"
_RESOLVED = "config.resolved.yml"
_OURS = re.compile("|".join(map(re.escape, (*_TABLES, _STUDIES, _RESOLVED))))


def check_views(folder: Path, studies: Iterable[Study], config: Config, *, is_new: bool) -> None:
    """Check that no file of the user's lies where a sweep writes.

    Args:
        folder: the experiment folder.
        studies: of the sweep.
        config: its configuration.
        is_new: whether the folder has no ledger yet. Where it has one, the sweep made the tables.

    Raises:
        InputError: a file that would be replaced isn't known to be Stitch Sweep's.
    """
    if is_new:
        names = {*_TABLES, _RESOLVED, *([_STUDIES] if config.search.distributions else [])}
        _manifest(folder).check_free(names, "give the sweep a folder of its own")
    pairs = {(study.sender, study.receiver) for study in studies}
    check_analysis(folder, pairs, with_front=bool(config.search.objectives))


def _manifest(folder: Path) -> Manifest:
    return Manifest(folder / SWEEP, _OURS)


def write_views(
    folder: Path, studies: Iterable[Study], config: Config
) -> tuple[pd.DataFrame, list[Matrix]]:
    """Rebuild everything that is derived from the ledger.

    Writes `results.parquet`, `predictions.parquet`, `traj.parquet`, `traj.pkl`, `optuna.log`,
    `summary.json`, `matrices/` and `figures/`; with several objectives also `pareto.csv`. `.sweep.json`
    and `.analysis.json` list them.

    Returns:
        The results, a row per ended trial in the order of the studies, and the matrices.

    Raises:
        RecordError: a record can't be used.
    """
    studies = list(studies)
    records = list(ended_records(Ledger(folder), studies, config))
    manifest, current = _manifest(folder), {_RESOLVED}
    if config.search.distributions:
        current.add(_STUDIES)
    if not records:
        manifest.begin(current)
        _write_studies(folder / _STUDIES, studies, records, config)
        manifest.finish(current)
        return pd.DataFrame(), []
    manifest.begin({*_TABLES, *current})
    _write_studies(folder / _STUDIES, studies, records, config)
    kinds = {network.name: network.kind for network in config.networks}
    results = check_results(results_table(records, kinds))
    trajectories = trajectory_table(records)
    for name, table in {
        "results": results,
        "predictions": predictions_table(records),
        "traj": trajectories,
    }.items():
        with atomic(folder / f"{name}.parquet") as temporary:
            table.to_parquet(temporary)
    with atomic(folder / "traj.pkl") as temporary:
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
        "copied": int(results["copied_from"].notna().sum()),
        "not_converged": int((results["converged"] == False).sum()),  # noqa: E712 (nullable)
        "compute_seconds": float(results["seconds"].sum()),
        "matrices": [matrix.file_name for matrix in matrices],
    }
    write_atomically(folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    manifest.finish({*_TABLES, *current})
    return results, matrices


def ended_records(
    ledger: Ledger, studies: Iterable[Study], config: Config
) -> Iterator[dict[str, Any]]:
    """Records of finished and failed trials, in the order of studies and numbers.

    Each is read when it is asked for: all of them, with their trajectories, take memory.

    Raises:
        RecordError: a record can't be used.
    """
    known = ledger.trial_ids()
    for study in studies:
        for number in range(samples_per_study(config, study)):
            if (trial := study.trial(number)) in known:
                record = ledger.read(trial)
                if record is not None and record["status"] != "running":
                    yield record


def results_table(
    records: Iterable[Mapping[str, Any]], kinds: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """A row per trial: identity, crossed factors, searched settings, all settings, final metrics.

    Args:
        records: of ended trials.
        kinds: `NetworkConfig.kind` by name; without it the table doesn't say what the networks are.
    """
    rows = []
    for record in records:
        settings = record["settings"]
        rows.append(
            {
                "trial": record["trial"],
                "sender": record["sender"],
                "receiver": record["receiver"],
                **({f"{side}_kind": kinds[record[side]] for side in PAIR} if kinds else {}),
                "sender_layer": record["sender_layer"],
                "receiver_layer": record["receiver_layer"],
                "repeat": record["repeat"],
                "number": record["number"],
                "stitch": settings["stitch"]["name"],
                "loss": _loss_label(record),
                **{f"factor.{k}": label(v) for k, v in record["factors"].items()},
                **{f"setting.{k}": label(v) for k, v in record["params"].items()},
                **{k: label(v) for k, v in _flatten(settings.get("training", {}), "training")},
                "status": record["status"],
                "error": record.get("error"),
                "copied_from": record.get("copied_from"),
                "metric": record["metric"],
                "val_accuracy": None,
                "test_accuracy": None,
                "penalty": None,
                "converged": None,
                "sender_accuracy": None,
                "receiver_accuracy": None,
                **record["metrics"],
                "seconds": record["seconds"],
            }
        )
    table = pd.DataFrame(rows)
    for column in ("metric", "val_accuracy", "test_accuracy", "penalty"):
        table[column] = table[column].astype("float64")
    for column in ("sender_accuracy", "receiver_accuracy"):
        table[column] = table[column].astype("float64")
    table["converged"] = table["converged"].astype("boolean")
    for column in table.columns[table.columns.str.match(r"(factor|setting|training)\.")]:
        if table[column].dropna().map(type).nunique() > 1:  # a number beside `null` or a name
            table[column] = table[column].map(str, na_action="ignore")
    return table


def _loss_label(record: Mapping[str, Any]) -> str:
    try:
        return LossConfig.model_validate(record["settings"]["loss"]).label
    except ValidationError:
        raise InputError(
            f"trial {record['trial']}: the loss in its record's settings is not valid; remove the "
            "record to run the trial again"
        ) from None


def predictions_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per finished trial: its id, and the class predicted for every test image."""
    rows = [(r["trial"], p) for r in records if (p := predictions_of(r)) is not None]
    return pd.DataFrame(rows, columns=["trial", "predictions"])


def trajectory_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per logged step of every trial."""
    identity = ("trial", "sender", "sender_layer", "receiver", "receiver_layer", "repeat", "number")
    rows = [
        {**{key: record[key] for key in identity}, **row}
        for record in records
        for row in record["trajectory"]
    ]
    return pd.DataFrame(rows, columns=None if rows else list(identity))


def _write_studies(
    path: Path, studies: list[Study], records: list[dict[str, Any]], config: Config
) -> None:
    """Optuna's journal for optuna-dashboard, written anew beside the old one and then swapped."""
    by_study: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_study.setdefault(record["study"], []).append(record)
    if not config.search.distributions:
        return  # there was no search, so there is nothing to look at
    with scratch.folder() as temporary:
        file = temporary / "optuna.log"
        storage = JournalStorage(JournalFileBackend(str(file)))
        for study in studies:
            if study.id not in by_study:
                continue
            search = StudySearch(study, config)
            for record in by_study[study.id]:
                search.tell(record["number"], record["params"], outcome_of(record, config))
            view = optuna.create_study(
                study_name=study.id, storage=storage, directions=search.optuna.directions
            )
            for key, value in study.key.items():
                view.set_user_attr(key, value)
            view.add_trials(search.optuna.get_trials(deepcopy=False))
        if file.exists():
            write_atomically(path, file.read_bytes())


def _flatten(tree: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}.{key}")
        elif value is not None:
            yield f"{prefix}.{key}", value
