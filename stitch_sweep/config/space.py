"""Checks that all crossed and searched values give valid settings, by building the settings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from stitch_sweep.config.paths import first_repeated, look_up
from stitch_sweep.config.root import Config
from stitch_sweep.config.search import SearchConfig
from stitch_sweep.config.trial import TrialSettings
from stitch_sweep.core.bounds import MOST_CHECKS
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.key_places import find_places
from stitch_sweep.core.problems import describe_problems

Option = tuple[str, dict[str, Any]]
"""A value of a path: (its name in messages, the overrides that set it)."""

_FEW = 20
"""Largest number of numeric values that are all combined with the values of other settings. Of longer
lists, only the smallest and the largest value are combined."""


def search_problems(config: Config) -> Iterator[str]:
    """Find problems of crossed and searched values.

    Settings are built with each value, and then with each pair of values of two settings.

    Yields:
        One sentence for each problem.
    """
    search = config.search
    places = {
        **{path: f"search.cross.{path}" for path in search.cross},
        **{path: f"search.space.{path}" for path in search.distributions},
    }
    for path, values in search.cross.items():
        if path in search.distributions:
            yield f"search: {path} is both crossed and searched; choose one"
        if repeated := first_repeated(values):
            yield f"search.cross.{path}: contains {repeated} twice"
    problems = [*_path_problems(places), *_condition_problems(config)]
    yield from problems
    if problems:
        return
    options: dict[str, list[Option]] = {}
    remaining = MOST_CHECKS
    for path in places:
        options[path] = list(itertools.islice(_options(search, path), remaining + 1))
        remaining -= len(options[path])
        if remaining < 0:
            yield (
                f"{places[path]}: all settings together have more than {MOST_CHECKS} values and "
                "combinations of their conditions to check; list fewer values"
            )
            return
    yield from _single_problems(config, places, options)
    yield from _pair_problems(config, places, options)


def _path_problems(places: Mapping[str, str]) -> Iterator[str]:
    for path, place in places.items():
        if path.split(".")[0] not in TrialSettings.model_fields:
            allowed = ", ".join(TrialSettings.model_fields)
            hint = (
                f"; set {' or '.join(found)}" if (found := find_places(path, TrialSettings)) else ""
            )
            yield f"{place}: can't differ between trials; only settings in {allowed} can{hint}"


def _single_problems(
    config: Config, places: Mapping[str, str], options: dict[str, list[Option]]
) -> Iterator[str]:
    """Check each option by itself, and remove the invalid options from `options`."""
    distributions = config.search.distributions
    for path, place in places.items():
        valid = []
        for name, overrides in options[path]:
            if problems := _setting_problems(config, overrides):
                yield from (f"{place}{name}: {p.removeprefix(f'{path}: ')}" for p in problems)
                if path in distributions and not distributions[path].choices:
                    break  # the other end of a range has the same problem
            else:
                valid.append((name, overrides))
        options[path] = valid


def _pair_problems(
    config: Config, places: Mapping[str, str], options: Mapping[str, list[Option]]
) -> Iterator[str]:
    """Check the options of each pair of paths together, such as adam with a searched momentum."""
    ends = {path: _outermost(path, options[path]) for path in places}
    count = sum(len(ends[a]) * len(ends[b]) for a, b in itertools.combinations(places, 2))
    if count > MOST_CHECKS:
        longest = ", ".join(sorted(places, key=lambda path: -len(ends[path]))[:2])
        yield (
            f"search: has {count} pairs of values to check together, {MOST_CHECKS} at most; list fewer "
            f"values, for example of {longest}"
        )
        return
    for first, second in itertools.combinations(places, 2):
        pairs = itertools.product(ends[first], ends[second])
        for (first_name, a), (second_name, b) in pairs:
            if any(a[path] != b[path] for path in a.keys() & b.keys()):
                continue
            if problems := _setting_problems(config, {**a, **b}):
                together = f"{places[first]}{first_name} with {places[second]}{second_name}"
                yield from (f"{together}: {problem}" for problem in problems)
                break


def _options(search: SearchConfig, path: str) -> Iterator[Option]:
    """Iterate over values that represent all values of a crossed or searched path."""
    if path in search.cross:
        for i, value in enumerate(search.cross[path]):
            yield f"[{i}]", {path: value}
        return
    distribution = search.distributions[path]
    for value in distribution.representatives():
        for context in _contexts(search, path):
            shown = json.dumps(value) if distribution.choices else f"{value:g}"
            yield f" = {shown}", {**context, path: value}


def _outermost(path: str, options: list[Option]) -> list[Option]:
    """Return the options with the smallest and largest number, if there are many; else all options."""
    values = [overrides[path] for _, overrides in options]
    are_numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    if len(values) <= _FEW or not are_numbers:
        return options
    ends = (min(values), max(values))
    return [option for option, value in zip(options, values, strict=True) if value in ends]


def _contexts(search: SearchConfig, path: str) -> Iterator[dict[str, Any]]:
    """Iterate over the overrides that fulfill a path's conditions, and in turn their conditions."""
    distribution = search.distributions.get(path)
    if distribution is None:
        yield {}
        return
    alternatives = [
        list(
            itertools.islice(
                (
                    {**context, source: value}
                    for source, value, result in _values_of(search, parent)
                    if result in (required if isinstance(required, list) else [required])
                    for context in _contexts(search, source)
                ),
                MOST_CHECKS + 1,  # `search_problems` refuses more
            )
        )
        or [{parent: required[0] if isinstance(required, list) else required}]
        for parent, required in distribution.when.items()
    ]
    for chosen in itertools.product(*alternatives):
        yield {key: value for context in chosen for key, value in context.items()}


def _values_of(search: SearchConfig, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Iterate over the values that crossing and searching can give a path.

    Yields:
        The path that is set, the value it is set to, and the resulting value of `path`. The path that
        is set is `path` itself, or a section that contains it and is chosen as a whole.
    """
    for source in _sources(search, path):
        distribution = search.distributions.get(source)
        values = distribution.representatives() if distribution else search.cross[source]
        for value in values:
            try:
                yield (
                    source,
                    value,
                    value if source == path else look_up(value, path[len(source) + 1 :]),
                )
            except KeyError:
                continue


def _sources(search: SearchConfig, path: str) -> list[str]:
    paths = (*search.distributions, *search.cross)
    return [source for source in paths if f"{path}.".startswith(f"{source}.")]


def _condition_problems(config: Config) -> Iterator[str]:
    search = config.search
    for path, distribution in search.distributions.items():
        place = f"search.space.{path}.when"
        for parent, required in distribution.when.items():
            if not _sources(search, parent) and not _exists(config, parent):
                yield f"{place}: {parent} is not a setting"
            if _depends_on(search, parent, path):
                yield f"{place}: {path} depends on itself"
                continue
            if parent in search.distributions and not search.distributions[parent].choices:
                yield f"{place}: {parent} is a range; only a choice can be a condition"
                continue
            possible = [value for _, _, value in _values_of(search, parent)]
            for value in required if isinstance(required, list) else [required]:
                if possible and value not in possible:
                    allowed = ", ".join(dict.fromkeys(map(json.dumps, possible)))
                    yield f"{place}.{parent}: is never {json.dumps(value)}; possible: {allowed}"


def _depends_on(search: SearchConfig, path: str, other: str) -> bool:
    """Return whether a path depends on `other`, directly or through the conditions of other paths."""
    visited: set[str] = set()
    waiting = _sources(search, path)
    while waiting:
        current = waiting.pop()
        if current == other:
            return True
        if current not in visited and current in search.distributions:
            visited.add(current)
            for parent in search.distributions[current].when:
                waiting += _sources(search, parent)
    return False


def _exists(config: Config, path: str) -> bool:
    try:
        look_up(config.settings, path)
    except KeyError:
        return False
    return True


def _setting_problems(config: Config, overrides: Mapping[str, Any]) -> list[str]:
    try:
        config.trial_settings(overrides)
    except ValidationError as error:
        return describe_problems(error, TrialSettings)
    except InputError as error:
        return error.problems
    return []
