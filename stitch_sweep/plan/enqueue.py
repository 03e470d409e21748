"""Known good settings (`search.enqueue`), with which every study begins.

They come from a list in the configuration, or from an earlier experiment's folder. From a folder, a study
takes the best trial of the equal study, else of the same cell, else the settings that were best in the
largest number of the folder's studies.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stitch_sweep.config.paths import look_up
from stitch_sweep.config.root import Config
from stitch_sweep.config.search import Distribution
from stitch_sweep.config.training import TrainingConfig
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.problems import show
from stitch_sweep.plan.space import (
    is_applicable,
    order_parents_first,
    settings_before_search,
)
from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.records import rank
from stitch_sweep.storage.study import Study

_MOST_PROBLEMS = 10
_TOLERANCE = 1e-8
"""Largest distance of a value from the nearest step of its range, in steps."""


def check_enqueued(config: Config) -> None:
    """Check that all enqueued settings are points of the search space.

    An experiment's folder is read anew here, and not again during the sweep.

    Raises:
        InputError: an unknown path, a value outside of the space, or a missing path; or the folder
            contains no sweep with a finished trial.
    """
    enqueue = config.search.enqueue
    if enqueue is None:
        return
    if isinstance(enqueue, str):
        _read_best.cache_clear()  # a notebook may run several sweeps while the folder grows
        best = _read_best(Path(enqueue))
        named = [(f"{enqueue}: trial {record['trial']}", record) for record in best.records]
        entries = [(place, _settings_of(record, config)) for place, record in named]
    else:
        entries = [(f"search.enqueue[{i}]", settings) for i, settings in enumerate(enqueue)]
    problems: dict[str, None] = {}
    for factors in config.factor_combinations():
        study = Study("", 0, "", 0, factors)
        for place, settings in entries:
            for problem in _fit(settings, config, study)[1]:
                problems[f"{place}: {problem}"] = None
    if problems:
        texts = list(problems)
        hidden = len(texts) - _MOST_PROBLEMS
        more = [f"... and {hidden} more problems of search.enqueue"] if hidden > 0 else []
        raise InputError(*texts[:_MOST_PROBLEMS], *more)


def enqueued_settings(config: Config, study: Study) -> list[dict[str, Any]]:
    """Return the settings with which a study begins, in order, each as {dotted path: value}.

    A setting whose conditions aren't met is dropped, as the search would.

    Args:
        config: the configuration, which `check_enqueued` has accepted.
        study: the study.
    """
    enqueue = config.search.enqueue
    if enqueue is None:
        return []
    if isinstance(enqueue, str):
        record = _read_best(Path(enqueue)).for_study(study)
        enqueue = [_settings_of(record, config)]
    return [_fit(settings, config, study)[0] for settings in enqueue]


def describe_enqueued(config: Config) -> Any:
    """Describe the enqueued settings for a sweep's description: the list, or a folder's digest."""
    enqueue = config.search.enqueue
    if not isinstance(enqueue, str):
        return enqueue
    content = [
        [record["study"], _settings_of(record, config)]
        for record in _read_best(Path(enqueue)).records
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class _Best:
    """The best finished trial of each study of an experiment.

    Args:
        records: the records of these trials, sorted by study.
        mode: whether `max` or `min` of the search metric is best.
    """

    def __init__(self, records: list[dict[str, Any]], mode: str) -> None:
        self.records = records
        self._by_study = {record["study"]: record for record in records}
        self._by_cell: dict[tuple[Any, ...], dict[str, Any]] = {}
        # Of equal metrics, the first in the order of the trials' ids counts.
        ranked = sorted(records, key=lambda record: (-rank(record, mode)[0], record["trial"]))
        for record in ranked:
            self._by_cell.setdefault(_cell(record), record)
        params = [json.dumps(record["params"], sort_keys=True) for record in ranked]
        counts = Counter(params)
        self._overall = ranked[params.index(max(params, key=lambda text: counts[text]))]

    def for_study(self, study: Study) -> dict[str, Any]:
        """Return the record whose settings a study takes."""
        same = self._by_study.get(study.id)
        return same or self._by_cell.get(_cell(study.key), self._overall)


@functools.lru_cache(maxsize=4)
def _read_best(folder: Path) -> _Best:
    """Read the best trials of an experiment.

    Raises:
        InputError: the folder contains no sweep with a finished trial, or a record can't be used.
    """
    ledger = Ledger(folder)
    description = ledger.description()
    if description is None:
        raise InputError(
            f"search.enqueue: {folder} contains no sweep; name an experiment folder, or a file (YAML, "
            "JSON or CSV) with a list of settings"
        )
    mode = description.get("config", {}).get("search", {}).get("mode", "max")
    best: dict[str, dict[str, Any]] = {}
    for record in ledger.records():
        if record["status"] != "finished":
            continue
        keys = ("trial", "study", "number", "metric", "params", "settings")
        kept = {key: record[key] for key in (*keys, *_CELL)}
        other = best.setdefault(kept["study"], kept)
        best[kept["study"]] = max(other, kept, key=lambda record: rank(record, mode))
    if not best:
        raise InputError(f"search.enqueue: no trial of the sweep in {folder} has finished")
    return _Best([best[study] for study in sorted(best)], mode)


_CELL = ("sender", "sender_layer", "receiver", "receiver_layer")


def _cell(key: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(key[name] for name in _CELL)


def _settings_of(record: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return a trial's value of every searched path, also where its own sweep didn't search it."""
    # Records lack the keys of `training` that have their defaults.
    training = TrainingConfig.model_validate(record["settings"].get("training", {}))
    fixed = {**record["settings"], "training": training.all_values()}
    values = {}
    for path in config.search.distributions:
        if path in record["params"]:
            values[path] = record["params"][path]
            continue
        with contextlib.suppress(KeyError):
            values[path] = look_up(fixed, path)
    return values


def _fit(
    settings: Mapping[str, Any], config: Config, study: Study
) -> tuple[dict[str, Any], list[str]]:
    """Return the part of settings that a study's search would choose, and what is wrong with them."""
    space = config.search.distributions
    base = settings_before_search(config, study)
    problems = [
        f"{path}: is not a path of search.space: {nearest(path, space)}"
        for path in settings
        if path not in space
    ]
    chosen: dict[str, Any] = {}
    for path in order_parents_first(space, space):
        if not is_applicable(path, space, base, chosen):
            continue
        if path not in settings:
            problems.append(f"{path}: is missing")
            continue
        matches = list(_find(space[path], settings[path]))
        if matches:
            chosen[path] = matches[0]
        else:
            problems.append(f"{path}: {show(settings[path])} is not in search.space")
    return chosen, problems


def _find(distribution: Distribution, value: Any) -> Iterator[Any]:
    """Iterate over the value of a distribution that equals a given one: none, or one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if distribution.type == "categorical":
        for choice in distribution.choices or []:
            # 1 and true are equal for Python, but not the same choice.
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                yield choice
                return
        return
    assert distribution.low is not None
    assert distribution.high is not None
    if not is_number or not distribution.low <= value <= distribution.high:
        return
    step = distribution.step or (1 if distribution.type == "int" else None)
    if step is not None:
        steps = (value - distribution.low) / step
        if abs(steps - round(steps)) > _TOLERANCE:
            return
    yield int(value) if distribution.type == "int" else float(value)
