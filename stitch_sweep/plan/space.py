"""The search space of a study: its conditions, the points of its grid, and their number.

A setting of `search.space` may have conditions (`when`): it is searched only where other settings have
certain values. Those other settings are its parents.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from stitch_sweep.config.paths import look_up, replaced
from stitch_sweep.config.root import Config
from stitch_sweep.config.search import Distribution
from stitch_sweep.core.bounds import MOST_CHECKS
from stitch_sweep.core.errors import InputError
from stitch_sweep.storage.study import Study


def combinations(config: Config, study: Study, only: str = "") -> Iterator[dict[str, Any]]:
    """Iterate over the combinations of the searched settings, conditions respected.

    Args:
        config: the configuration.
        study: its crossed factors decide conditions.
        only: a section such as `stitch`: vary only the paths below it and their parents, and represent
            a range by both of its ends.

    Returns:
        Combinations as {dotted path: value}.
    """
    space = config.search.distributions
    order = order_parents_first(space, [p for p in space if not only or p.split(".")[0] == only])
    base = settings_before_search(config, study)

    def extend(k: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if k == len(order):
            yield chosen
            return
        path = order[k]
        if not is_applicable(path, space, base, chosen):
            yield from extend(k + 1, chosen)
            return
        for value in space[path].representatives() if only else _grid_values(space[path]):
            yield from extend(k + 1, {**chosen, path: value})

    return extend(0, {})


def count_grid_points(config: Config, study: Study) -> int:
    """Count the combinations of a study's searched settings without making them.

    Raises:
        InputError: there are too many combinations of the settings on which conditions depend.
    """
    space = config.search.distributions
    order = order_parents_first(space, space)
    base = settings_before_search(config, study)
    parents = {parent for distribution in space.values() for parent in distribution.when}
    decisive = {
        path
        for path, parent in itertools.product(space, parents)
        if f"{parent}.".startswith(f"{path}.") or f"{path}.".startswith(f"{parent}.")
    }
    visits = itertools.count()

    def count(k: int, chosen: dict[str, Any]) -> int:
        if next(visits) > MOST_CHECKS:
            raise InputError(
                "search.space: the settings that other settings depend on have more than "
                f"{MOST_CHECKS} combinations, which is too many for a grid. List fewer values, or use "
                "another sampler"
            )
        points = 1
        for path in order[k:]:
            k += 1
            if not is_applicable(path, space, base, chosen):
                continue
            if path in decisive:
                values = _grid_values(space[path])
                return points * sum(count(k, {**chosen, path: value}) for value in values)
            points *= _grid_size(space[path])
        return points

    return count(0, {})


def order_parents_first(space: Mapping[str, Distribution], paths: Iterable[str]) -> list[str]:
    """List paths of a space and all their parents, every parent before its dependents.

    The configuration's validation has ruled out that a path depends on itself.
    """
    order: list[str] = []

    def visit(path: str) -> None:
        if path in order:
            return
        for parent in space[path].when:
            for other in sorted(space):
                # The parent itself, or a section that is chosen as a whole and contains it.
                if other != path and f"{parent}.".startswith(f"{other}."):
                    visit(other)
        order.append(path)

    # Sorted, so that the order of keys in a file doesn't change a sampler's draws.
    for path in sorted(paths):
        visit(path)
    return order


def settings_before_search(config: Config, study: Study) -> dict[str, Any]:
    """Return a study's settings with its crossed factors, before any setting is searched."""
    return config.trial_settings(study.factors).all_values()


def is_applicable(
    path: str,
    space: Mapping[str, Distribution],
    base: Mapping[str, Any],
    chosen: Mapping[str, Any],
) -> bool:
    """Return whether the conditions of a path are met.

    Args:
        path: of the space.
        space: the search space.
        base: the settings before the search.
        chosen: values of the parents, as {dotted path: value}.
    """
    conditions = space[path].when
    if any(parent in space and parent not in chosen for parent in conditions):
        return False  # a parent whose own conditions aren't met
    settings = replaced(base, chosen) if conditions else base
    for parent, allowed in conditions.items():
        try:
            value = look_up(settings, parent)
        except KeyError:
            return False
        if value not in (allowed if isinstance(allowed, list) else [allowed]):
            return False
    return True


def count_values(distribution: Distribution) -> float:
    """Count a distribution's values; infinity for a range of floats without a step."""
    is_range = distribution.type == "float" and distribution.step is None
    if is_range and distribution.low != distribution.high:
        return math.inf
    return _grid_size(distribution)


def _grid_values(distribution: Distribution) -> Iterator[Any]:
    if distribution.type == "categorical":
        yield from distribution.choices or []
        return
    low, _, step = _ends_and_step(distribution)
    cast = int if distribution.type == "int" else float
    for k in range(_grid_size(distribution)):
        yield cast(low + k * step)


def _grid_size(distribution: Distribution) -> int:
    """Count the values of `_grid_values`."""
    if distribution.type == "categorical":
        return len(distribution.choices or [])
    low, high, step = _ends_and_step(distribution)
    return int((high - low) / step) + 1


def _ends_and_step(distribution: Distribution) -> tuple[Decimal, Decimal, Decimal]:
    # In decimals, so that 0.1 + 2 * 0.1 is 0.3.
    low, high, step = distribution.low, distribution.high, distribution.step or 1
    return Decimal(str(low)), Decimal(str(high)), Decimal(str(step))
