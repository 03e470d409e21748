"""The size of a sweep: its number of studies, trials and trainings, and their upper limits."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable

from stitch_sweep.config.root import Config
from stitch_sweep.core.bounds import MOST_CHECKS, MOST_STUDIES, MOST_TRIALS
from stitch_sweep.core.errors import InputError
from stitch_sweep.plan.space import combinations, count_grid_points, count_values
from stitch_sweep.storage.study import Study


def count_samples(config: Config, study: Study) -> int:
    """Count the trials of a study: `search.samples`, or the points of its grid."""
    if config.search.sampler.name == "grid" and config.search.distributions:
        return count_grid_points(config, study)
    return config.search.samples


def count_trials(config: Config, studies: Iterable[Study]) -> list[int]:
    """Count the trials of each study."""
    return compute_once_per_factors(studies, lambda study: count_samples(config, study))


def allot_trials(config: Config, studies: Iterable[Study]) -> list[int]:
    """Count the trials that each study may run: all of its trials, within `search.stop.trials`.

    The trials of the sweep are divided as evenly as possible; the first studies get the rest. With a
    scheduler, which compares the trials of a round, a study gets whole rounds.

    Returns:
        A number for each study, 0 if there are fewer trials than studies.
    """
    counts = count_trials(config, studies)
    stop = config.search.stop
    if stop is None or stop.trials is None or stop.trials >= sum(counts):
        return counts
    size = 1 if config.search.scheduler is None else config.search.parallel_per_study
    return [size * rounds for rounds in _divide([n // size for n in counts], stop.trials // size)]


def _divide(counts: list[int], total: int) -> list[int]:
    """Divide a total evenly, giving no place more than its count.

    Example:
        >>> _divide([5, 1, 5, 5], 12)
        [4, 1, 4, 3]
    """
    shares = [0] * len(counts)
    open_places = [k for k, count in enumerate(counts) if count]
    while total and open_places:
        level = max(1, total // len(open_places))
        for k in open_places:
            part = min(level, counts[k] - shares[k], total)
            shares[k] += part
            total -= part
        open_places = [k for k in open_places if shares[k] < counts[k]]
    return shares


def bound_trainings(config: Config, study: Study) -> int:
    """Return an upper bound on the number of a study's trainings.

    Equal trials of a study are trained once, so a finite space limits the number of trainings.
    """
    samples = count_samples(config, study)
    sizes = [count_values(distribution) for distribution in config.search.distributions.values()]
    if config.search.sampler.name == "grid" or any(size > samples for size in sizes):
        return samples
    return sum(1 for _ in itertools.islice(combinations(config, study), samples))


def bound_all_trainings(config: Config, studies: Iterable[Study]) -> list[int]:
    """Return an upper bound on the number of trainings of each study, within `search.stop.trials`."""
    studies = list(studies)
    bounds = compute_once_per_factors(studies, lambda study: bound_trainings(config, study))
    return list(map(min, bounds, allot_trials(config, studies)))


def compute_once_per_factors(
    studies: Iterable[Study], function: Callable[[Study], int]
) -> list[int]:
    """Compute a number for every study, once for all studies with equal crossed factors.

    Args:
        studies: the studies.
        function: must depend on a study's factors only.
    """
    numbers_by_factors: dict[str, int] = {}
    numbers = []
    for study in studies:
        factors = json.dumps(study.factors, sort_keys=True)
        if factors not in numbers_by_factors:
            numbers_by_factors[factors] = function(study)
        numbers.append(numbers_by_factors[factors])
    return numbers


def check_sweep_size(config: Config, cells: int) -> None:
    """Check that a sweep over a number of cells doesn't have too many studies, trials or checks.

    Raises:
        InputError: there are too many; the message names the factors of the product.
    """
    search = config.search
    factors = f"{cells} cells x {config.repeats} repeats"
    if search.cross:
        factors += f" x {search.combinations} combinations of crossed values (search.cross)"
    studies = cells * config.repeats * search.combinations
    if studies > MOST_STUDIES:
        raise InputError(f"{factors} = {studies} studies; a sweep has {MOST_STUDIES} at most")
    # Crossed values decide which conditions of the search space hold.
    crossed = [Study("", 0, "", 0, values) for values in config.factor_combinations()]
    trials = cells * config.repeats * sum(count_trials(config, crossed))
    if trials > MOST_TRIALS:
        grid = search.sampler.name == "grid" and search.distributions
        samples_text = "points of the grid (search.space)" if grid else f"{search.samples} samples"
        raise InputError(
            f"{factors} x {samples_text} = {trials} trials; a sweep has {MOST_TRIALS} at most"
        )
    every = (
        chosen
        for study in crossed
        for section in ("stitch", "loss")
        for chosen in combinations(config, study, only=section)
    )
    if sum(1 for _ in itertools.islice(every, MOST_CHECKS + 1)) > MOST_CHECKS:
        raise InputError(
            f"search: crossed and searched values make more than {MOST_CHECKS} stitches and losses to "
            "check; list fewer values under stitch and loss"
        )
