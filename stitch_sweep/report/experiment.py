"""An experiment folder as a report needs it: every table that is there, and what is missing in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from stitch_sweep.analysis.results import PAIR, Mode, check_results, load_results
from stitch_sweep.config.models import weights_kind
from stitch_sweep.config.reading import read_yaml
from stitch_sweep.core.credentials import public
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.untrusted import UnreadableFileError, read_json
from stitch_sweep.measuring.pictures import Pictures, read_pictures
from stitch_sweep.report.foreign import (
    FolderConfig,
    FolderDescription,
    SanityFile,
    column_problems,
    problem_of,
)
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.tables import read_table

TRAJECTORY = ["trial", "step", "epoch", "split", "loss"]
MEASURED: dict[str, list[str]] = {
    "networks": ["network", "weights", "parameters", "depth", "test_accuracy"],
    "labels": ["label"],
    "representations": ["sender", "receiver", "sender_layer", "receiver_layer", "ev", "es", "sv"],
    "probes": ["network", "layer", "test_accuracy"],
    "importances": ["sender", "receiver", "setting", "importance"],
}
"""The tables of `measured/`, and the columns that a report can't do without."""

# One network's accuracy may move by single images between machines; two networks differ by more.
_SAME_ACCURACY = 0.005


@dataclass(frozen=True, eq=False)
class Part:
    """What is known of one folder beside its tables; all of it without credentials.

    Attributes:
        folder: where it was read from.
        config: the configuration as plain data; None if there is none.
        description: what the ledger says of the sweep; None if there is none.
        sanity: what `sanity.json` holds; None if there is none.
        ended: so many trials have ended.
        planned: so many trials were asked for; None if unknown.
    """

    folder: Path
    config: dict[str, Any] | None = field(default=None, repr=False)
    description: dict[str, Any] | None = field(default=None, repr=False)
    sanity: dict[str, Any] | None = field(default=None, repr=False)
    ended: int = 0
    planned: int | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def search(self) -> dict[str, Any]:
        """The configuration's section on search; empty if unknown."""
        search = (self.config or {}).get("search")
        return search if isinstance(search, dict) else {}


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything known of one sweep, or of several that are parts of one study.

    Attributes:
        parts: the folders, at least one.
        results: a row per ended trial, as `analysis.load_results` returns it; with `folder`, the
            path of the folder that a row came from.
        predictions: a row per trial: `trial`, `predictions`; None if there are none.
        trajectories: a row per logged step: `trial`, `step`, `epoch`, `split`, `loss`, `accuracy`.
        measured: the tables of `measured/` that are there, by name.
        pictures: what stitches into layer -1 make of test images, an entry per folder that has any.
        folder_notes: what is missing or doubtful about the folders, a sentence each.
        measured_notes: the same of what is in `measured/`.
    """

    parts: tuple[Part, ...]
    results: pd.DataFrame = field(repr=False)
    predictions: pd.DataFrame | None = field(default=None, repr=False)
    trajectories: pd.DataFrame | None = field(default=None, repr=False)
    measured: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    pictures: tuple[Pictures, ...] = field(default=(), repr=False)
    folder_notes: tuple[str, ...] = ()
    measured_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing or doubtful about the folders, a sentence each."""
        return self.folder_notes + self.measured_notes

    @property
    def name(self) -> str:
        """What it is called: the folders' names."""
        return " + ".join(part.name for part in self.parts)

    @property
    def metric(self) -> str:
        """The column that chose trials."""
        return str(self.parts[0].search.get("metric", "val_accuracy"))

    @property
    def mode(self) -> Mode:
        """Whether "max" or "min" of it is best."""
        return "min" if self.parts[0].search.get("mode") == "min" else "max"

    @property
    def objectives(self) -> dict[str, Mode]:
        """What was searched, where that is more than one metric; the first part's."""
        found = self.parts[0].search.get("objectives")
        return dict(found) if isinstance(found, dict) else {}

    @property
    def planned(self) -> int | None:
        """So many trials were asked for; None if that isn't known of every folder."""
        planned = [part.planned for part in self.parts]
        return None if None in planned else sum(count or 0 for count in planned)

    def table(self, name: str) -> pd.DataFrame | None:
        """A table of `measured/`, or None."""
        return self.measured.get(name)


def load_experiment(folder: str | Path) -> Experiment:
    """Read an experiment folder; nothing in it is unpickled or executed.

    Args:
        folder: as a sweep writes it. `results.parquet` is read, or the ledger where it knows of
            more trials: a sweep that is still running, or one that was killed.

    Raises:
        InputError: not a folder, no trial has ended, a table that isn't a sweep's, or files of
            two different sweeps.

    Example:
        >>> load_experiment("experiments/quickstart/digits").results  # doctest: +SKIP
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; expected an experiment folder")
    ledger, notes = Ledger(folder), []
    config_file = folder / "config.resolved.yml"
    config = None
    if not config_file.is_file():
        notes.append("config.resolved.yml is missing, so how it was made is known in part only")
    elif problem := problem_of(tree := read_yaml(config_file), FolderConfig):
        notes.append(f"config.resolved.yml can't be used and is left out ({problem})")
    else:
        config = public(tree)
    description = ledger.description()
    if description is not None and (problem := problem_of(description, FolderDescription)):
        notes.append(f"ledger/sweep.json can't be used and is left out ({problem})")
        description = None
    results, predictions, trajectories = _tables(folder, ledger, config, notes)
    results = _with_kinds(results, config, notes)
    _check_one_sweep(folder, results, config, ledger)
    planned = (description or {}).get("trials")
    if isinstance(planned, int) and planned > len(results):
        notes.append(
            f"the sweep is not complete: {len(results)} of {planned} trials have ended; "
            "`stitch-sweep sweep --resume` goes on with it"
        )
    part = Part(
        folder,
        config,
        public(description) if description else None,
        _sanity(folder / "sanity.json", notes),
        ended=len(results),
        planned=planned if isinstance(planned, int) else None,
    )
    return read_measured(
        Experiment(
            parts=(part,),
            results=results.assign(folder=str(folder)),
            predictions=predictions,
            trajectories=trajectories,
            folder_notes=tuple(notes),
        )
    )


def read_measured(experiment: Experiment) -> Experiment:
    """The same experiment, of one folder, with the tables that are in `measured/` now."""
    (part,) = experiment.parts
    folder = part.folder / "measured"
    notes: list[str] = []
    measured = {
        name: table
        for name, columns in MEASURED.items()
        if (table := _optional(folder / f"{name}.parquet", columns, notes)) is not None
    }
    pictures = _pictures(folder / "images.safetensors", notes)
    if measured or pictures:
        notes += _outdated(folder / "about.json", part)
    return replace(
        experiment,
        measured=measured,
        pictures=pictures,
        measured_notes=tuple(notes),
    )


def _outdated(path: Path, part: Part) -> list[str]:
    """Whether the measured tables are of an earlier state of the sweep, in a sentence."""
    try:
        trials = read_json(path).get("trials")
    except (FileNotFoundError, InputError):
        return []
    if not isinstance(trials, int) or trials == part.ended:
        return []
    return [f"measured/ was computed when {trials} trials had ended; now {part.ended} have"]


def _tables(
    folder: Path, ledger: Ledger, config: Mapping[str, Any] | None, notes: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
    """Results, predictions and trajectories: from the tables, or newer ones from the ledger."""
    stored = (folder / "results.parquet").is_file()
    known = len(ledger.trial_ids())
    results = load_results(folder) if stored else None
    if known > (0 if results is None else len(results)):
        usable = ledger.records(lambda error: notes.append(f"left out: {error}"))
        records = [record for record in usable if record["status"] != "running"]
        if len(records) > (0 if results is None else len(results)):
            # Imports Ray and Optuna, which a finished sweep's report needs no second of.
            from stitch_sweep.sweep.views import predictions_table, results_table, trajectory_table

            if not stored:
                notes.append(
                    "results.parquet is not there yet; the trials are read from the ledger"
                )
            return (
                check_results(results_table(records, _kinds(config, records))),
                predictions_table(records),
                trajectory_table(records),
            )
    if results is None:
        if known:
            raise InputError(f"{folder}: none of its {known} trials has ended yet")
        if ledger.exists:
            raise InputError(f"{folder}: its sweep has started, but no trial has ended yet")
        raise InputError(
            f"{folder}: holds neither results.parquet nor a ledger; expected an experiment folder"
        )
    return (
        results,
        _optional(folder / "predictions.parquet", ["trial", "predictions"], notes, wanted=True),
        _optional(folder / "traj.parquet", TRAJECTORY, notes, wanted=True),
    )


def _with_kinds(
    results: pd.DataFrame, config: Mapping[str, Any] | None, notes: list[str]
) -> pd.DataFrame:
    """Results that say what kinds of networks theirs are; older ones don't by themselves."""
    columns = {role: f"{role}_kind" for role in PAIR}
    if all(column in results.columns for column in columns.values()):
        return results
    pairs = results[PAIR].drop_duplicates().itertuples(index=False, name=None)
    kinds = _kinds(config, [dict(zip(PAIR, pair, strict=True)) for pair in pairs])
    if kinds is None:
        notes.append(
            "neither the results nor config.resolved.yml say which networks are untrained or know "
            "the class only; what `stitch-sweep analyze` measures may"
        )
        return results
    return results.assign(**{columns[role]: results[role].map(kinds) for role in PAIR})


def _kinds(
    config: Mapping[str, Any] | None, records: Iterable[Mapping[str, Any]]
) -> dict[str, str] | None:
    """Where the weights of every network come from; None if that isn't known of all."""
    found = {}
    for name, network in _networks(config).items():
        found[name] = weights_kind(str(network.get("weights", "trained")))
    used = {str(record[role]) for record in records for role in PAIR}
    return found if used <= found.keys() else None


def _networks(config: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """The configuration's networks by name, as far as it has any."""
    return {str(network.get("name")): network for network in sections(config, "networks")}


def sections(config: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    """The sections that a configuration lists under a name; none where it doesn't."""
    listed = (config or {}).get(name)
    return [m for m in listed if isinstance(m, Mapping)] if isinstance(listed, list) else []


def _optional(
    path: Path, columns: Iterable[str], notes: list[str], *, wanted: bool = False
) -> pd.DataFrame | None:
    """A table that a report can do without; why it does goes into the notes."""
    name = path.name if wanted else f"{path.parent.name}/{path.name}"
    if not path.is_file():
        if wanted:
            notes.append(f"{name} is missing")
        return None
    try:
        table = read_table(path)
    except UnreadableFileError as error:
        notes.append(f"{name} can't be used and is left out (it {error.reason})")
        return None
    missing = [column for column in columns if column not in table.columns]
    if missing and table.empty:  # a sweep that trains nothing has no trajectories
        return None
    if missing:
        notes.append(f"{name} lacks columns and is left out: {', '.join(missing)}")
        return None
    if problems := column_problems(table):
        notes.append(f"{name} can't be used and is left out ({'; '.join(problems)})")
        return None
    return table


def _pictures(path: Path, notes: list[str]) -> tuple[Pictures, ...]:
    if not path.is_file():
        return ()
    try:
        return (read_pictures(path),)
    except InputError as error:
        notes.append(f"{error} and are left out")
        return ()


def _sanity(path: Path, notes: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = read_json(path)
        problem = problem_of(found, SanityFile)
    except UnreadableFileError as error:
        problem = f"it {error.reason}"
    if problem is not None:
        notes.append(
            f"sanity.json is not what `stitch-sweep sanity` writes, and is left out ({problem})"
        )
        return None
    return public(found)


def _check_one_sweep(
    folder: Path, results: pd.DataFrame, config: Mapping[str, Any] | None, ledger: Ledger
) -> None:
    """See that table, configuration and ledger are of one sweep.

    Raises:
        InputError: they aren't; every contradiction is named.
    """
    problems = []
    where = f"{folder}: holds files of different sweeps:"
    twice = results["trial"][results["trial"].duplicated()]
    if len(twice):
        problems.append(f"trial {twice.iloc[0]} is in results.parquet twice")
    used = {str(name) for role in PAIR for name in results[role]}
    unknown = [] if config is None else sorted(used - _networks(config).keys())
    if unknown:
        problems.append(
            f"results.parquet has {', '.join(unknown)}, which config.resolved.yml doesn't name"
        )
    if ledger.exists:
        strangers = sorted(set(map(str, results["trial"])) - ledger.trial_ids())
        if strangers:
            problems.append(
                f"results.parquet has {len(strangers)} trials that the ledger doesn't know, "
                f"{strangers[0]} for one"
            )
    problems += _two_accuracies(results)
    if problems:
        raise InputError(*(f"{where} {problem}" for problem in problems))


def _two_accuracies(results: pd.DataFrame) -> list[str]:
    """Networks whose own test accuracy isn't one number: two networks under one name."""
    own = pd.concat(
        results[[role, f"{role}_accuracy"]].set_axis(["network", "accuracy"], axis=1)
        for role in PAIR
    ).dropna()
    spread = own.groupby("network")["accuracy"].agg(["min", "max"])
    return [
        f"network {name} has test accuracies from {row['min']:.4f} to {row['max']:.4f}"
        for name, row in spread.iterrows()
        if row["max"] - row["min"] > _SAME_ACCURACY
    ]
