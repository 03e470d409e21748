"""Merging experiment folders: parts of one study become one experiment, others stay apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from stitch_sweep.analysis.results import FACTOR, check_results
from stitch_sweep.config.paths import flatten, look_up
from stitch_sweep.config.trial import label
from stitch_sweep.report.experiment import Experiment, Part

# The place of the images and the way to read them don't change the data.
_LOCATION_KEYS = {"path", "loader", "beton_folder"}
_TABLES_WITH_FACTORS = {"representations", "importances"}
_TABLE_KEYS = {"networks": ["network"], "probes": ["network", "layer"]}


def merge(experiments: Sequence[Experiment]) -> tuple[list[Experiment], list[str]]:
    """Merge experiments that are parts of one study.

    Parts of one study have the same data, split, seed and rule for the best trial, and the same
    weights behind every shared network name. Their differences in stitch, loss or training become
    factors, as if one sweep had crossed them.

    Args:
        experiments: in the order in which the user named them.

    Returns:
        The experiments, merged where possible; and the reasons why any of them stay apart.

    Example:
        >>> merge([load_experiment("task"), load_experiment("mse")])  # doctest: +SKIP
    """
    groups: list[list[Experiment]] = []
    reasons: list[str] = []
    for experiment in experiments:
        rejections: list[str] = []
        for group in groups:
            obstacles = [text for member in group for text in _obstacles(member, experiment)]
            if not obstacles:
                group.append(experiment)
                break
            rejections += obstacles[:1]
        else:
            groups.append([experiment])
            reasons += rejections
    return [_merge_group(group) for group in groups], reasons


def _obstacles(first: Experiment, second: Experiment) -> list[str]:
    """Explain why two experiments, of one part each, are not parts of one study."""
    a, b = first.parts[0], second.parts[0]
    start = f"{a.name} and {b.name} are compared and not merged:"
    first_identity, second_identity = _study_identity(a, b), _study_identity(b, a)
    if first_identity is None or second_identity is None:
        return [f"{start} a configuration is missing"]
    obstacles = [
        f"{start} {aspect} differ{'' if aspect == 'data' else 's'}"
        for aspect in ("data", "seed", "best trial's rule")
        if first_identity[aspect] != second_identity[aspect]
    ]
    shared = first_identity["networks"].keys() & second_identity["networks"].keys()
    obstacles += [
        f"{start} {name} is not the same network in both"
        for name in sorted(shared)
        if first_identity["networks"][name] != second_identity["networks"][name]
    ]
    shared_plugins = first_identity["plugins"].keys() & second_identity["plugins"].keys()
    obstacles += [
        f"{start} {name} is not the same plugin in both"
        for name in sorted(shared_plugins)
        if first_identity["plugins"][name] != second_identity["plugins"][name]
    ]
    if not obstacles and _have_conflicting_results(first, second):
        obstacles.append(f"{start} trials of the same name and settings have different results")
    return obstacles


def _study_identity(part: Part, other: Part) -> dict[str, Any] | None:
    """Return the properties that parts of one study share, in a form comparable with `other`."""
    config = part.config
    if config is None:
        return None
    decides = (part.description or {}).get("decides")
    plugins = dict(decides.get("plugins") or {}) if isinstance(decides, Mapping) else {}
    rule = [part.search.get(key) for key in ("metric", "mode")]
    if isinstance(decides, Mapping) and (other.description or {}).get("decides"):
        data = [decides.get("data"), decides.get("augment")]
        seed, networks = decides.get("seed"), dict(decides.get("networks") or {})
    else:
        section = config.get("data")
        data = [{k: v for k, v in dict(section or {}).items() if k not in _LOCATION_KEYS}]
        seed = config.get("seed")
        networks = {
            str(network.get("name")): [network, config.get("pretraining")]
            for network in config.get("networks") or []
        }
    return {
        "data": data,
        "seed": seed,
        "best trial's rule": rule,
        "networks": networks,
        "plugins": plugins,
    }


def _crossed_paths(parts: Sequence[Part]) -> set[str]:
    return {str(path) for part in parts for path in dict(part.search.get("cross") or {})}


def _differing_paths(parts: Sequence[Part]) -> list[str]:
    """Return the dotted paths that the parts cross or set differently: the merged factors."""
    crossed = _crossed_paths(parts)
    settings = [dict(_trial_settings(part.config or {})) for part in parts]
    paths = {path for leaves in settings for path in leaves}
    differing = {p for p in paths if len({_to_text(leaves.get(p)) for leaves in settings}) > 1}
    uncovered = {path for path in differing if not any(_covers(c, path) for c in crossed)}
    return sorted(crossed | uncovered)


def _distinguishing_factors(
    factors: Sequence[str], tables: Sequence[pd.DataFrame], crossed: set[str]
) -> list[str]:
    """Select factors that distinguish the folders' trials; the others would only lengthen titles.

    Args:
        factors: all factors.
        tables: trials, with a column for every factor.
        crossed: factors that are always selected.
    """
    columns = _factor_columns(factors)
    rows = pd.concat(table[columns] for table in tables).map(_cell_to_text).drop_duplicates()
    selected = [path for path in factors if path in crossed]
    # Most matrices are told apart by their loss, so it comes first.
    candidates = sorted(set(factors) - crossed, key=lambda path: (path != "loss", path))

    def combinations(paths: Sequence[str]) -> int:
        return len(rows[_factor_columns(paths)].drop_duplicates()) if paths else 1

    for path in candidates:
        if combinations([*selected, path]) > combinations(selected):
            selected.append(path)
    return sorted(selected)


def _covers(path: str, other: str) -> bool:
    return other == path or other.startswith(f"{path}.")


def _trial_settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Iterate over a trial's settings: the loss as a whole, the others one by one."""
    yield "loss", config.get("loss")
    for section in ("stitch", "training"):
        yield from flatten(config.get(section), section)


def _to_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _cell_to_text(value: Any) -> str:
    """Convert a table's cell to text; all kinds of missing values become the same text."""
    return _to_text(None if value is None or value != value else value)


def _have_conflicting_results(first: Experiment, second: Experiment) -> bool:
    """Whether a trial that both have, with the same factors, has different results."""
    factors = _differing_paths([first.parts[0], second.parts[0]])
    compared = ["status", "val_accuracy", "test_accuracy"]
    tables = [_add_factors(e.results, _factor_values(e.parts[0], factors)) for e in (first, second)]
    # Compare as text: a default in one folder may be written as a number in the other.
    keys = ["trial", *_factor_columns(factors)]
    texts = [table[keys].map(_cell_to_text) for table in tables]
    both = (
        texts[0]
        .join(tables[0][compared])
        .merge(texts[1].join(tables[1][compared]), on=keys, suffixes=("", "_other"))
    )
    return any(not both[n].equals(both[f"{n}_other"].rename(n)) for n in compared)


def _merge_group(group: Sequence[Experiment]) -> Experiment:
    if len(group) == 1:
        return group[0]
    parts = tuple(part for experiment in group for part in experiment.parts)
    differing = _differing_paths(parts)
    factors = _distinguishing_factors(
        differing,
        [
            _add_factors(e.results, _factor_values(p, differing))
            for e, p in zip(group, parts, strict=True)
        ],
        _crossed_paths(parts),
    )
    values = [_factor_values(part, factors) for part in parts]
    results = [_add_factors(e.results, v) for e, v in zip(group, values, strict=True)]
    notes = [f"{e.name}: {note}" for e in group for note in e.notes]
    if others := [path for path in differing if path not in factors]:
        notes.append(
            f"The folders differ in {', '.join(others)} too, always together with "
            f"{' and '.join(factors)}; the last section has the values"
        )
    renaming = _TrialRenaming.of_parts(parts, results, factors)

    def concatenate(tables: Sequence[pd.DataFrame | None]) -> pd.DataFrame | None:
        """Concatenate tables of trials; a trial of two folders is read from the first."""
        known_trials: set[str] = set()
        new_rows = []
        for tag, table in zip(renaming.tags, tables, strict=True):
            if table is None:
                continue
            trials = renaming.rename(table["trial"], tag)
            is_new = ~trials.isin(known_trials)
            known_trials |= set(trials)
            new_rows.append(table.assign(trial=trials)[is_new])
        return pd.concat(new_rows, ignore_index=True) if new_rows else None

    def concatenate_measured(name: str) -> pd.DataFrame:
        tables = []
        for experiment, tag, folder_values in zip(group, renaming.tags, values, strict=True):
            if name not in experiment.measured:
                continue
            table = experiment.measured[name]
            if name in _TABLES_WITH_FACTORS:
                table = _add_factors(
                    table,
                    {
                        path: value
                        for path, value in folder_values.items()
                        if name != "representations" or path != "loss"
                    },
                )
            for column in ("task_trial", "similarity_trial"):
                if column in table:
                    table = table.assign(**{column: renaming.rename(table[column], tag)})
            tables.append(table)
        return _drop_repeated_rows(name, tables)

    union = concatenate(results)
    assert union is not None
    names = sorted({name for experiment in group for name in experiment.measured})
    return Experiment(
        parts=parts,
        results=check_results(union),
        predictions=concatenate([e.predictions for e in group]),
        trajectories=concatenate([e.trajectories for e in group]),
        measured={name: concatenate_measured(name) for name in names},
        pictures=tuple(pictures for e in group for pictures in e.pictures),
        folder_notes=tuple(notes),
    )


class _TrialRenaming:
    """Makes trial ids unique. An id contains the crossed factors, but no setting of the whole folder.

    Args:
        tags: a tag per folder.
        ambiguous: ids that stand for different trials in different folders.
    """

    def __init__(self, tags: Sequence[str], ambiguous: set[str]) -> None:
        self.tags = tags
        self._ambiguous = ambiguous

    @classmethod
    def of_parts(
        cls, parts: Sequence[Part], results: Sequence[pd.DataFrame], factors: Sequence[str]
    ) -> _TrialRenaming:
        """Find the ids whose factors differ between folders."""
        identity = pd.concat(table[["trial", *_factor_columns(factors)]] for table in results)
        meanings = identity.drop_duplicates().groupby("trial").size()
        names = [part.name for part in parts]
        tags = [
            n if names.count(n) == 1 else str(p.folder) for n, p in zip(names, parts, strict=True)
        ]
        return cls(tags, set(meanings.index[meanings > 1]))

    def rename(self, trials: pd.Series, tag: str) -> pd.Series:
        """Append the folder's tag to the ids that are ambiguous."""
        return trials.where(~trials.isin(self._ambiguous), trials + f"@{tag}")


def _factor_values(part: Part, factors: Sequence[str]) -> dict[str, Any]:
    """Return a folder's setting for every factor, as a label."""
    values: dict[str, Any] = {}
    for path in factors:
        try:
            value = look_up(part.config, path)
        except KeyError:
            value = None
        values[path] = None if value is None else label(value)
    return values


def _factor_columns(factors: Sequence[str]) -> list[str]:
    return [f"{FACTOR}{path}" for path in factors]


def _add_factors(table: pd.DataFrame, values: Mapping[str, Any]) -> pd.DataFrame:
    """Add a column for every factor that the table lacks."""
    new = {f"{FACTOR}{k}": v for k, v in values.items() if f"{FACTOR}{k}" not in table.columns}
    return table.assign(
        **{name: pd.Series([v] * len(table), table.index) for name, v in new.items()}
    )


def _drop_repeated_rows(name: str, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate measured tables without the rows that several folders share."""
    if name == "labels":
        return tables[0]
    keys = _TABLE_KEYS.get(name)
    union = pd.concat(tables, ignore_index=True)
    return union.drop_duplicates(keys, ignore_index=True) if keys else union
