"""Reading an experiment folder. Optional files that are missing or damaged are skipped with a note."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from stitch_sweep.analysis.results import PAIR, check_results, load_results
from stitch_sweep.config.networks import weights_kind
from stitch_sweep.config.reading import read_yaml
from stitch_sweep.core.credentials import redact
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import UnreadableFileError, read_json
from stitch_sweep.measuring.pictures import Pictures, read_pictures
from stitch_sweep.report.experiment import Experiment, Part
from stitch_sweep.report.file_checks import (
    FolderConfig,
    FolderDescription,
    SanityFile,
    column_problems,
    explain_misfit,
)
from stitch_sweep.storage import layout
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.parquet import read_table
from stitch_sweep.storage.status import describe_left_out

_TRAJECTORY_COLUMNS = ["trial", "step", "epoch", "split", "loss"]
_MEASURED_COLUMNS: dict[str, list[str]] = {
    "networks": ["network", "weights", "parameters", "depth", "test_accuracy"],
    "labels": ["label"],
    "representations": ["sender", "receiver", "sender_layer", "receiver_layer", "ev", "es", "sv"],
    "probes": ["network", "layer", "test_accuracy"],
    "importances": ["sender", "receiver", "setting", "importance"],
}
"""The tables of `measured/`, and the columns that a report requires."""

# Between machines, one network's accuracy may differ by single images; two networks differ by more.
_ACCURACY_TOLERANCE = 0.005


def load_experiment(folder: str | Path) -> Experiment:
    """Read an experiment folder; nothing in it is unpickled or executed.

    `results.parquet` is read, or the ledger if it has more trials: then the sweep is still running,
    or it was killed.

    Args:
        folder: a sweep's folder.

    Raises:
        InputError: not a folder, no trial has ended, a table that isn't a sweep's, or files of
            two different sweeps.

    Example:
        >>> load_experiment("experiments/quickstart/digits").results  # doctest: +SKIP
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; expected an experiment folder")
    ledger = Ledger(folder)
    notes: list[str] = []
    config = _read_config(folder / layout.RESOLVED_CONFIG, notes)
    description = ledger.description()
    if description is not None and (misfit := explain_misfit(description, FolderDescription)):
        notes.append(f"ledger/sweep.json can't be used and is skipped ({misfit})")
        description = None
    planned = (description or {}).get("trials")
    part = Part(
        folder,
        config,
        redact(description) if description else None,
        _read_sanity(folder / layout.SANITY, notes),
        planned=planned if isinstance(planned, int) else None,
    )
    results, predictions, trajectories = _read_tables(part, ledger, notes)
    results = _add_network_kinds(results, part, notes)
    _check_single_sweep(part, results, ledger)
    left_out = (description or {}).get("left_out") or {}
    if left_out:
        notes.append(describe_left_out(left_out, part.planned or len(results)))
    if part.planned is not None and part.planned > len(results) + sum(left_out.values()):
        notes.append(
            f"the sweep is not complete: {len(results)} of {part.planned} trials have ended; "
            "`stitch-sweep sweep --resume` continues it"
        )
    return read_measured(
        Experiment(
            parts=(replace(part, ended=len(results)),),
            results=results.assign(folder=str(folder)),
            predictions=predictions,
            trajectories=trajectories,
            folder_notes=tuple(notes),
        )
    )


def read_measured(experiment: Experiment) -> Experiment:
    """Return the experiment, of one folder, with the tables that `measured/` has now."""
    (part,) = experiment.parts
    folder = part.folder / layout.MEASURED
    notes: list[str] = []
    measured = {
        name: table
        for name, columns in _MEASURED_COLUMNS.items()
        if (table := _read_optional(folder / f"{name}.parquet", columns, notes)) is not None
    }
    pictures = _read_pictures(folder / "images.safetensors", notes)
    if measured or pictures:
        notes += _outdated_notes(folder / layout.MEASURED_ABOUT, part)
    return replace(
        experiment,
        measured=measured,
        pictures=pictures,
        measured_notes=tuple(notes),
    )


def _read_config(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """Read the configuration without its credentials."""
    if not path.is_file():
        notes.append(f"{path.name} is missing, so parts of the report are missing too")
        return None
    tree = read_yaml(path)
    if misfit := explain_misfit(tree, FolderConfig):
        notes.append(f"{path.name} can't be used and is skipped ({misfit})")
        return None
    return redact(tree)


def _outdated_notes(path: Path, part: Part) -> list[str]:
    """Note whether the measured tables belong to an earlier state of the sweep."""
    try:
        trials = read_json(path).get("trials")
    except (FileNotFoundError, InputError):
        return []
    if not isinstance(trials, int) or trials == part.ended:
        return []
    return [f"measured/ was computed when {trials} trials had ended; now {part.ended} have"]


def _read_tables(
    part: Part, ledger: Ledger, notes: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
    """Read results, predictions and trajectories, from the ledger if it has more trials."""
    folder = part.folder
    has_results = (folder / layout.RESULTS).is_file()
    recorded = len(ledger.trial_ids())
    results = load_results(folder) if has_results else None
    stored = 0 if results is None else len(results)
    if recorded > stored:
        usable = ledger.records(lambda error: notes.append(f"skipped: {error}"))
        records = [record for record in usable if record["status"] != "running"]
        if len(records) > stored:
            # Needed for unfinished sweeps only; the import is slow.
            from stitch_sweep.sweep.result_tables import (
                predictions_table,
                results_table,
                trajectory_table,
            )

            if not has_results:
                notes.append(
                    "results.parquet does not exist yet; the trials are read from the ledger"
                )
            return (
                check_results(results_table(records, _network_kinds(part, records))),
                predictions_table(records),
                trajectory_table(records),
            )
    if results is None:
        if recorded:
            raise InputError(f"{folder}: none of its {recorded} trials has ended yet")
        if ledger.exists:
            raise InputError(f"{folder}: its sweep has started, but no trial has ended yet")
        raise InputError(
            f"{folder}: contains neither results.parquet nor a ledger; expected an experiment folder"
        )
    columns = ["trial", "predictions"]
    return (
        results,
        _read_optional(folder / layout.PREDICTIONS, columns, notes, is_expected=True),
        _read_optional(folder / layout.TRAJECTORIES, _TRAJECTORY_COLUMNS, notes, is_expected=True),
    )


def _add_network_kinds(results: pd.DataFrame, part: Part, notes: list[str]) -> pd.DataFrame:
    """Add the kinds of networks, from the configuration, to results of older versions."""
    columns = {role: f"{role}_kind" for role in PAIR}
    if all(column in results.columns for column in columns.values()):
        return results
    pairs = results[PAIR].drop_duplicates().itertuples(index=False, name=None)
    kinds = _network_kinds(part, [dict(zip(PAIR, pair, strict=True)) for pair in pairs])
    if kinds is None:
        notes.append(
            "neither the results nor config.resolved.yml say which networks are untrained or know "
            "only the class; measuring the networks with `stitch-sweep analyze` may show it"
        )
        return results
    return results.assign(**{columns[role]: results[role].map(kinds) for role in PAIR})


def _network_kinds(part: Part, records: Iterable[Mapping[str, Any]]) -> dict[str, str] | None:
    """Map every network to the source of its weights; None if any network is not configured."""
    kinds = {
        name: weights_kind(str(network.get("weights", "trained")))
        for name, network in _networks(part).items()
    }
    used = {str(record[role]) for record in records for role in PAIR}
    return kinds if used <= kinds.keys() else None


def _networks(part: Part) -> dict[str, Mapping[str, Any]]:
    """Return the configuration's networks by name."""
    return {str(network.get("name")): network for network in part.sections("networks")}


def _read_optional(
    path: Path, columns: Iterable[str], notes: list[str], *, is_expected: bool = False
) -> pd.DataFrame | None:
    """Read an optional table; a note explains why one can't be used.

    Args:
        path: the file.
        columns: required columns.
        notes: sentences; notes are appended.
        is_expected: whether a missing file needs a note.
    """
    name = path.name if is_expected else f"{path.parent.name}/{path.name}"
    if not path.is_file():
        if is_expected:
            notes.append(f"{name} is missing")
        return None
    try:
        table = read_table(path)
    except UnreadableFileError as error:
        notes.append(f"{name} can't be used and is skipped (it {error.reason})")
        return None
    missing = [column for column in columns if column not in table.columns]
    if missing and table.empty:  # no trial has a logged step
        return None
    if missing:
        notes.append(f"{name} lacks columns and is skipped: {', '.join(missing)}")
        return None
    if problems := column_problems(table):
        notes.append(f"{name} can't be used and is skipped ({'; '.join(problems)})")
        return None
    return table


def _read_pictures(path: Path, notes: list[str]) -> tuple[Pictures, ...]:
    if not path.is_file():
        return ()
    try:
        return (read_pictures(path),)
    except InputError as error:
        notes.append(f"{error}; the file is skipped")
        return ()


def _read_sanity(path: Path, notes: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = read_json(path)
        misfit = explain_misfit(content, SanityFile)
    except UnreadableFileError as error:
        misfit = f"it {error.reason}"
    if misfit is not None:
        notes.append(
            f"sanity.json was not written by `stitch-sweep sanity` and is skipped ({misfit})"
        )
        return None
    return redact(content)


def _check_single_sweep(part: Part, results: pd.DataFrame, ledger: Ledger) -> None:
    """Check that table, configuration and ledger belong to one sweep.

    Raises:
        InputError: they don't; the message names every contradiction.
    """
    problems = []
    duplicates = results["trial"][results["trial"].duplicated()]
    if len(duplicates):
        problems.append(f"trial {duplicates.iloc[0]} is in results.parquet twice")
    used = {str(name) for role in PAIR for name in results[role]}
    unknown = [] if part.config is None else sorted(used - _networks(part).keys())
    if unknown:
        problems.append(
            f"results.parquet has {', '.join(unknown)}, which config.resolved.yml doesn't name"
        )
    if ledger.exists:
        unrecorded = sorted(set(map(str, results["trial"])) - ledger.trial_ids())
        if unrecorded:
            problems.append(
                f"results.parquet has {len(unrecorded)} trials that the ledger lacks, such "
                f"as {unrecorded[0]}"
            )
    problems += _contradicting_accuracies(results)
    if problems:
        start = f"{part.folder}: contains files of different sweeps:"
        raise InputError(*(f"{start} {problem}" for problem in problems))


def _contradicting_accuracies(results: pd.DataFrame) -> list[str]:
    """List networks with several test accuracies: two networks share one name."""
    accuracies = pd.concat(
        results[[role, f"{role}_accuracy"]].set_axis(["network", "accuracy"], axis=1)
        for role in PAIR
    ).dropna()
    ranges = accuracies.groupby("network")["accuracy"].agg(["min", "max"])
    return [
        f"network {name} has test accuracies from {row['min']:.4f} to {row['max']:.4f}"
        for name, row in ranges.iterrows()
        if row["max"] - row["min"] > _ACCURACY_TOLERANCE
    ]
