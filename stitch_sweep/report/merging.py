"""Several folders: merged where they are parts of one study, kept apart where they aren't."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from stitch_sweep.analysis.results import FACTOR, check_results
from stitch_sweep.config.models import label
from stitch_sweep.config.paths import look_up
from stitch_sweep.report.experiment import Experiment, Part

# Where the same images may lie, and how they are read, doesn't make other data of them.
_NOT_DATA = {"path", "loader", "beton_folder"}
_BY_FACTORS = {"representations", "importances"}
_KEYS = {"networks": ["network"], "probes": ["network", "layer"]}


def merge(experiments: Sequence[Experiment]) -> tuple[list[Experiment], list[str]]:
    """Merge experiments that are parts of one study.

    Parts of one study have the same data, split, seed and rule for the best trial, and the same
    weights behind every name that they share. What then differs between them in stitch, loss or
    training becomes a factor, as if one sweep had crossed it.

    Args:
        experiments: in the order that they were named in.

    Returns:
        The experiments, merged as far as possible, and why any of them stay apart.

    Example:
        >>> merge([load_experiment("task"), load_experiment("mse")])  # doctest: +SKIP
    """
    groups: list[list[Experiment]] = []
    reasons: list[str] = []
    for experiment in experiments:
        why: list[str] = []
        for group in groups:
            found = [reason for other in group for reason in _obstacles(other, experiment)]
            if not found:
                group.append(experiment)
                break
            why += found[:1]
        else:
            groups.append([experiment])
            reasons += why
    return [_merged(group) for group in groups], reasons


def _obstacles(one: Experiment, other: Experiment) -> list[str]:
    """Why two experiments, of one part each, are not parts of one study."""
    a, b = one.parts[0], other.parts[0]
    start = f"{a.name} and {b.name} are compared and not merged:"
    first, second = _identity(a, b), _identity(b, a)
    if first is None or second is None:
        return [f"{start} a configuration is missing"]
    found = [
        f"{start} {what} differ{'' if what == 'data' else 's'}"
        for what in ("data", "seed", "best trial's rule")
        if first[what] != second[what]
    ]
    shared = first["networks"].keys() & second["networks"].keys()
    found += [
        f"{start} {name} is not the same network in both"
        for name in sorted(shared)
        if first["networks"][name] != second["networks"][name]
    ]
    if not found and _contradict(one, other):
        found.append(f"{start} trials of the same name and settings have different results")
    return found


def _identity(part: Part, other: Part) -> dict[str, Any] | None:
    """What two parts of one study have in common, comparable between `part` and `other`."""
    config = part.config
    if config is None:
        return None
    decides = (part.description or {}).get("decides")
    rule = [part.search.get(key) for key in ("metric", "mode")]
    if isinstance(decides, Mapping) and (other.description or {}).get("decides"):
        data = [decides.get("data"), decides.get("augment")]
        seed, networks = decides.get("seed"), dict(decides.get("networks") or {})
    else:
        section = config.get("data")
        data = [{k: v for k, v in dict(section or {}).items() if k not in _NOT_DATA}]
        seed = config.get("seed")
        networks = {
            str(network.get("name")): [network, config.get("pretraining")]
            for network in config.get("networks") or []
        }
    return {"data": data, "seed": seed, "best trial's rule": rule, "networks": networks}


def _differing(parts: Sequence[Part]) -> list[str]:
    """Dotted paths of what the parts cross, or set differently: the factors of their union."""
    crossed = {str(path) for part in parts for path in dict(part.search.get("cross") or {})}
    leaves = [dict(_leaves(part.config or {})) for part in parts]
    paths = {path for tree in leaves for path in tree}
    different = {path for path in paths if len({_text(tree.get(path)) for tree in leaves}) > 1}
    above = {path for path in different if not any(_covers(known, path) for known in crossed)}
    return sorted(crossed | above)


def _telling(
    factors: Sequence[str], tables: Sequence[pd.DataFrame], crossed: set[str]
) -> list[str]:
    """The factors that tell the folders' trials apart; the others say nothing new in a title.

    Args:
        factors: all of them.
        tables: trials, with a column for every factor.
        crossed: those that stay, whatever they tell.
    """
    columns = _columns(factors)
    rows = pd.concat(table[columns] for table in tables).map(_known_text).drop_duplicates()
    chosen = [path for path in factors if path in crossed]
    # The loss is what most matrices are told apart by, and stands first.
    left = sorted(set(factors) - crossed, key=lambda path: (path != "loss", path))

    def told_apart(paths: Sequence[str]) -> int:
        return len(rows[_columns(paths)].drop_duplicates()) if paths else 1

    for path in left:
        if told_apart([*chosen, path]) > told_apart(chosen):
            chosen.append(path)
    return sorted(chosen)


def _covers(path: str, other: str) -> bool:
    return other == path or other.startswith(f"{path}.")


def _leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a trial is made with: the loss as a whole, the rest setting by setting."""
    yield "loss", config.get("loss")
    for section in ("stitch", "training"):
        yield from _flat(config.get(section), section)


def _flat(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, f"{path}.{key}")
    else:
        yield path, tree


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _known_text(value: Any) -> str:
    """A cell of a table as text; nothing in all its forms is the same."""
    return _text(None if value is None or value != value else value)


def _contradict(one: Experiment, other: Experiment) -> bool:
    """Whether a trial that both have, under the same factors, ended differently."""
    factors = _differing([one.parts[0], other.parts[0]])
    figures = ["status", "val_accuracy", "test_accuracy"]
    tables = [_filled(e.results, _own_values(e.parts[0], factors)) for e in (one, other)]
    # As text: what one folder left to a default, the other may have as a number.
    keys = {"trial": "trial", **{name: name for name in _columns(factors)}}
    texts = [table[[*keys]].map(_known_text) for table in tables]
    both = (
        texts[0]
        .join(tables[0][figures])
        .merge(texts[1].join(tables[1][figures]), on=[*keys], suffixes=("", "_other"))
    )
    return any(not both[n].equals(both[f"{n}_other"].rename(n)) for n in figures)


def _merged(group: Sequence[Experiment]) -> Experiment:
    if len(group) == 1:
        return group[0]
    parts = tuple(part for experiment in group for part in experiment.parts)
    every = _differing(parts)
    factors = _telling(
        every,
        [_filled(e.results, _own_values(p, every)) for e, p in zip(group, parts, strict=True)],
        {str(path) for part in parts for path in dict(part.search.get("cross") or {})},
    )
    values = [_own_values(part, factors) for part in parts]
    results = [_filled(e.results, v) for e, v in zip(group, values, strict=True)]
    notes = [f"{e.name}: {note}" for e in group for note in e.notes]
    if silent := [path for path in every if path not in factors]:
        notes.append(
            f"The folders differ in {', '.join(silent)} too, always together with "
            f"{' and '.join(factors)}; how each was made is at the end"
        )
    # A study's id has its crossed factors in it, and not what its folder did everywhere.
    identity = pd.concat(table[["trial", *_columns(factors)]] for table in results)
    meanings = identity.drop_duplicates().groupby("trial").size()
    clashes = set(meanings.index[meanings > 1])
    names = [part.name for part in parts]
    tags = [n if names.count(n) == 1 else str(p.folder) for n, p in zip(names, parts, strict=True)]

    def trials(tables: Sequence[pd.DataFrame | None]) -> pd.DataFrame | None:
        """One below the other; a trial that two folders share is taken from the first."""
        seen: set[str] = set()
        kept = []
        for tag, table in zip(tags, tables, strict=True):
            if table is None:
                continue
            names = _renamed(table["trial"], clashes, tag)
            new = ~names.isin(seen)
            seen |= set(names)
            kept.append(table.assign(trial=names)[new])
        return pd.concat(kept, ignore_index=True) if kept else None

    def measured(name: str) -> pd.DataFrame:
        tables = []
        for experiment, tag, own in zip(group, tags, values, strict=True):
            if name not in experiment.measured:
                continue
            table = experiment.measured[name]
            if name in _BY_FACTORS:
                known = {k: v for k, v in own.items() if name != "representations" or k != "loss"}
                table = _filled(table, known)
            for column in ("task_trial", "similarity_trial"):
                if column in table:
                    table = table.assign(**{column: _renamed(table[column], clashes, tag)})
            tables.append(table)
        return _once(name, tables)

    union = trials(results)
    assert union is not None
    return Experiment(
        parts=parts,
        results=check_results(union),
        predictions=trials([e.predictions for e in group]),
        trajectories=trials([e.trajectories for e in group]),
        measured={name: measured(name) for name in sorted({k for e in group for k in e.measured})},
        pictures=tuple(pictures for e in group for pictures in e.pictures),
        folder_notes=tuple(notes),
    )


def _renamed(trials: pd.Series, clashes: set[str], tag: str) -> pd.Series:
    """Ids of one folder's trials; those that another folder means otherwise get the folder's tag."""
    return trials.where(~trials.isin(clashes), trials + f"@{tag}")


def _own_values(part: Part, factors: Sequence[str]) -> dict[str, Any]:
    """What a folder did everywhere, for every factor of the union."""
    found: dict[str, Any] = {}
    for path in factors:
        try:
            value = look_up(part.config, path)
        except KeyError:
            value = None
        found[path] = None if value is None else label(value)
    return found


def _columns(factors: Sequence[str]) -> list[str]:
    return [f"{FACTOR}{path}" for path in factors]


def _filled(table: pd.DataFrame, values: Mapping[str, Any]) -> pd.DataFrame:
    """The table with a column for every factor; those that it has stay."""
    new = {f"{FACTOR}{k}": v for k, v in values.items() if f"{FACTOR}{k}" not in table.columns}
    return table.assign(
        **{name: pd.Series([v] * len(table), table.index) for name, v in new.items()}
    )


def _once(name: str, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables one below the other, without what several folders say alike."""
    if name == "labels":
        return tables[0]
    keys = _KEYS.get(name)
    union = pd.concat(tables, ignore_index=True)
    return union.drop_duplicates(keys, ignore_index=True) if keys else union
