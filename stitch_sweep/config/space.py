"""Whether what is crossed and searched makes valid settings, found by making them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from stitch_sweep.config.models import Config, SearchConfig, TrialSettings, trial_settings
from stitch_sweep.config.paths import first_twice, look_up
from stitch_sweep.core.bounds import MOST_CHECKS
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.problems import describe_problems

_FEW = 20
"""Numbers that are all tried together with the values of other settings; of more only both ends."""


def search_problems(config: Config) -> Iterator[str]:
    """What is wrong with crossed and searched values, found by building settings with each."""
    search = config.search
    where = {
        **{path: f"search.cross.{path}" for path in search.cross},
        **{path: f"search.space.{path}" for path in search.distributions},
    }
    for path, values in search.cross.items():
        if path in search.distributions:
            yield f"search: {path} is both crossed and searched; choose one"
        if twice := first_twice(values):
            yield f"search.cross.{path}: has {twice} twice"
    broken = False
    for path in where:
        if path.split(".")[0] not in TrialSettings.model_fields:
            allowed = ", ".join(TrialSettings.model_fields)
            yield f"{where[path]}: can't differ between trials; only what is under {allowed} can"
            broken = True
    for problem in _condition_problems(config):
        yield problem
        broken = True
    if broken:
        return
    options = {}
    left = MOST_CHECKS
    for path in where:
        options[path] = list(itertools.islice(_options(search, path), left + 1))
        left -= len(options[path])
        if left < 0:
            yield (
                f"{where[path]}: more than {MOST_CHECKS} values of all settings, and ways in which "
                "their conditions can hold, would have to be checked; list fewer values"
            )
            return
    # One setting at a time, then every two together: adam with a searched momentum.
    for path in where:
        usable = []
        for name, overrides in options[path]:
            if found := _try(config, overrides):
                place = f"{where[path]}{name}"
                yield from (f"{place}: {p.removeprefix(f'{path}: ')}" for p in found)
                if path in search.distributions and not search.distributions[path].choices:
                    break  # the other end of a range says the same
            else:
                usable.append((name, overrides))
        options[path] = usable
    ends = {path: _outermost(path, options[path]) for path in where}
    count = sum(len(ends[a]) * len(ends[b]) for a, b in itertools.combinations(where, 2))
    if count > MOST_CHECKS:
        most = ", ".join(sorted(where, key=lambda path: -len(ends[path]))[:2])
        yield (
            f"search: has {count} pairs of values to check together, {MOST_CHECKS} at most; list fewer "
            f"values, of {most} for example"
        )
        return
    for one, other in itertools.combinations(where, 2):
        pairs = itertools.product(ends[one], ends[other])
        for (name, a), (other_name, b) in pairs:
            if any(a[path] != b[path] for path in a.keys() & b.keys()):
                continue
            if found := _try(config, {**a, **b}):
                together = f"{where[one]}{name} with {where[other]}{other_name}"
                yield from (f"{together}: {problem}" for problem in found)
                break


def _options(search: SearchConfig, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Values that stand for all of a crossed or searched path, as (how to name it, overrides)."""
    if path in search.cross:
        for i, value in enumerate(search.cross[path]):
            yield f"[{i}]", {path: value}
        return
    distribution = search.distributions[path]
    for value in distribution.representatives():
        for context in _contexts(search, path):
            shown = json.dumps(value) if distribution.choices else f"{value:g}"
            yield f" = {shown}", {**context, path: value}


def _outermost(
    path: str, options: list[tuple[str, dict[str, Any]]]
) -> list[tuple[str, dict[str, Any]]]:
    """Of many numbers the options with the smallest and the largest, as of a range; else all options."""
    values = [overrides[path] for _, overrides in options]
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    if len(values) <= _FEW or not numbers:
        return options
    ends = (min(values), max(values))
    return [option for option, value in zip(options, values, strict=True) if value in ends]


def _contexts(search: SearchConfig, path: str) -> Iterator[dict[str, Any]]:
    """Every way in which the conditions of a path, and the conditions of those, can hold."""
    distribution = search.distributions.get(path)
    if distribution is None:
        yield {}
        return
    alternatives = [
        list(
            itertools.islice(
                (
                    {**above, source: value}
                    for source, value, seen in _values_of(search, parent)
                    if seen in (wanted if isinstance(wanted, list) else [wanted])
                    for above in _contexts(search, source)
                ),
                MOST_CHECKS + 1,  # `search_problems` refuses so many
            )
        )
        or [{parent: wanted[0] if isinstance(wanted, list) else wanted}]
        for parent, wanted in distribution.when.items()
    ]
    for chosen in itertools.product(*alternatives):
        yield {key: value for context in chosen for key, value in context.items()}


def _values_of(search: SearchConfig, path: str) -> Iterator[tuple[str, Any, Any]]:
    """What a path can become by crossing and searching: (path that is set, to what, value then).

    The path that is set is the path itself or a section that is chosen as a whole and holds it.
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
        where = f"search.space.{path}.when"
        for parent, wanted in distribution.when.items():
            if not _sources(search, parent) and not _exists(config, parent):
                yield f"{where}: {parent} is no setting"
            if _depends_on(search, parent, path):
                yield f"{where}: {path} depends on itself"
                continue
            if parent in search.distributions and not search.distributions[parent].choices:
                yield f"{where}: {parent} is a range; only a choice can be a condition"
                continue
            possible = [value for _, _, value in _values_of(search, parent)]
            for value in wanted if isinstance(wanted, list) else [wanted]:
                if possible and value not in possible:
                    allowed = ", ".join(dict.fromkeys(map(json.dumps, possible)))
                    yield f"{where}.{parent}: never is {json.dumps(value)}; allowed: {allowed}"


def _depends_on(search: SearchConfig, path: str, other: str) -> bool:
    """Whether a path, or what its condition leads to, is decided by `other`."""
    seen: set[str] = set()
    left = _sources(search, path)
    while left:
        current = left.pop()
        if current == other:
            return True
        if current not in seen and current in search.distributions:
            seen.add(current)
            for parent in search.distributions[current].when:
                left += _sources(search, parent)
    return False


def _exists(config: Config, path: str) -> bool:
    try:
        look_up(config.settings, path)
    except KeyError:
        return False
    return True


def _try(config: Config, overrides: Mapping[str, Any]) -> list[str]:
    try:
        trial_settings(config.settings, overrides)
    except ValidationError as error:
        return describe_problems(error, TrialSettings)
    except InputError as error:
        return error.problems
    return []
