"""What is tried next: one Optuna study per (pair, factors, repeat), asked by Ray Tune.

A suggestion is a function of (seed, study, number, earlier results of that study): the sampler is made
anew for each, under a seed derived from them, so neither a resume nor the number of workers moves it.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import math
import re
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.search import Searcher

from stitch_sweep.analysis.results import of_test_images
from stitch_sweep.config.models import Config, Distribution, SamplerConfig, trial_settings
from stitch_sweep.config.paths import look_up, replaced
from stitch_sweep.core.bounds import MOST_CHECKS, MOST_STUDIES, MOST_TRIALS
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.problems import argument_problems, dotted
from stitch_sweep.core.seeding import derive
from stitch_sweep.losses.measures import MEASURES
from stitch_sweep.plan.equal_trials import EffectiveSettings
from stitch_sweep.stitches.shapes import Shape
from stitch_sweep.storage.ledger import Ledger, Study, predictions_of
from stitch_sweep.sweep.trainable import SAID, STOPPED

optuna.logging.set_verbosity(optuna.logging.WARNING)

RETRIES = 3
"""So often a trial whose worker died is started again without having got further in between."""

_CLASSES = {"tpe": "TPESampler", "random": "RandomSampler"}
# What these suggest depends on no result.
_BLIND = {"RandomSampler", "QMCSampler"}
# Imported at the first suggestion that uses it, which is too late to say so.
_NEEDS = {"CmaEsSampler": "cmaes"}
_SAMPLERS = {
    name: cls
    for name, cls in vars(optuna.samplers).items()
    if inspect.isclass(cls)
    and issubclass(cls, BaseSampler)
    and "seed" in inspect.signature(cls).parameters
    # These two enumerate by themselves and stop a study; `grid` does that here, conditions included.
    and name not in {"GridSampler", "BruteForceSampler"}
}

_RESULT = ("status", "metric", "metrics", "trajectory", "error")
"""What a record says of a trial's result, besides the predictions."""

_PLAIN = re.compile(r"(int|float|bool|str|dict\[str, Any\])( \| None)?")
"""Types of arguments that a file can hold."""


def check_sampler(config: Config) -> None:
    """See that the sampler exists, takes its arguments, and fits the space.

    Raises:
        InputError: it doesn't.
    """
    sampler = config.search.sampler
    if sampler.name == "grid":
        if sampler.options:
            raise InputError("search.sampler: grid takes no arguments")
        for path, distribution in config.search.distributions.items():
            if distribution.type == "float" and distribution.step is None:
                raise InputError(
                    f"search.space.{path}: grid can't enumerate a float without a step; "
                    "give a step or list the choices"
                )
        return
    cls = _SAMPLERS.get(_CLASSES.get(sampler.name, sampler.name))
    if cls is None:
        known = {*_CLASSES, "grid", *_SAMPLERS}
        raise InputError(
            f"search.sampler.name: none is named {sampler.name!r}: {nearest(sampler.name, known)}"
        )
    hidden = {
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if name == "seed" or not _PLAIN.fullmatch(str(parameter.annotation))
    }
    problems = [
        f"{dotted(('search', 'sampler', *place))}: {why}"
        for place, why in argument_problems(cls, sampler.options, hidden)
    ]
    if problems:
        raise InputError(*problems)
    try:
        built = _sampler(sampler, 0)
    except (TypeError, ValueError) as error:
        raise InputError(f"search.sampler: {sampler.name}: {error}") from None
    package = _NEEDS.get(cls.__name__)
    if package is not None and importlib.util.find_spec(package) is None:
        raise InputError(
            f"search.sampler: {sampler.name} needs the package {package}: pip install {package}"
        )
    try:
        # A sampler says at its first suggestion only that it knows no more than one objective.
        optuna.create_study(directions=_directions(config), sampler=built).ask(
            {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
        )
    except ValueError as error:
        if not config.search.objectives:
            raise
        raise InputError(
            f"search.sampler: {sampler.name} can't search {len(config.search.objectives)} objectives "
            f"at once ({error}); tpe and NSGAIISampler can"
        ) from None


def check_objectives(config: Config) -> None:
    """See that every objective is a metric that a trial has and that no test image decides.

    Raises:
        InputError: one isn't.
    """
    known = [
        "val_accuracy",
        "val_loss",
        "stitch_parameters",
        "stitch_multiply_adds",
        *(f"val_{measure}" for measure in MEASURES),
    ]
    problems = []
    for name in config.search.objectives:
        if of_test_images(name):
            problems.append(
                f"search.objectives.{name}: is computed on test images and can't guide a search"
            )
        elif name not in known:
            problems.append(f"search.objectives.{name}: is no metric: {nearest(name, known)}")
    if problems:
        raise InputError(*problems)


def outcome_of(record: Mapping[str, Any], config: Config) -> list[float] | None:
    """What Optuna is told of a trial, a value per objective; None where one of them is missing."""
    if record["status"] != "finished":
        return None
    values = [record["metrics"].get(name) for name in config.search.goals]
    return None if any(value is None for value in values) else values


def startup_note(config: Config) -> str | None:
    """What to tell a user whose sampler never gets past its random start-up trials."""
    if not config.search.distributions or config.search.sampler.name == "grid":
        return None
    startup = _startup(config.search.sampler)
    if startup == math.inf:
        return None
    if config.search.samples <= startup:
        return (
            f"{config.search.samples} samples per study don't exceed the {startup:g} random start-up "
            f"trials of {config.search.sampler.name}: this is random search"
        )
    return None


def samples_per_study(config: Config, study: Study) -> int:
    """How many trials a study has: `samples`, or the size of its grid."""
    if config.search.sampler.name == "grid" and config.search.distributions:
        return _grid_points(config, study)
    return config.search.samples


def trainings_per_study(config: Config, study: Study) -> int:
    """Upper bound on a study's trainings: equal trials are trained once, and a space may be finite."""
    samples = samples_per_study(config, study)
    sizes = [_size(distribution) for distribution in config.search.distributions.values()]
    if config.search.sampler.name == "grid" or any(size > samples for size in sizes):
        return samples
    return sum(1 for _ in itertools.islice(combinations(config, study), samples))


def once_per_factors(studies: Iterable[Study], function: Callable[[Study], int]) -> list[int]:
    """A number for every study that its factors alone decide; computed once for equal factors."""
    known: dict[str, int] = {}
    numbers = []
    for study in studies:
        factors = json.dumps(study.factors, sort_keys=True)
        if factors not in known:
            known[factors] = function(study)
        numbers.append(known[factors])
    return numbers


def trials_by_study(config: Config, studies: Iterable[Study]) -> list[int]:
    """As `samples_per_study`, of many studies."""
    return once_per_factors(studies, lambda study: samples_per_study(config, study))


def check_size(config: Config, cells: int) -> None:
    """Count the studies and trials of so many cells, and the stitches and losses to check.

    Raises:
        InputError: a sweep has fewer; the message says what multiplies to it.
    """
    search = config.search
    factors = f"{cells} cells x {config.repeats} repeats"
    if search.cross:
        factors += f" x {search.combinations} combinations of crossed values (search.cross)"
    studies = cells * config.repeats * search.combinations
    if studies > MOST_STUDIES:
        raise InputError(f"{factors} = {studies} studies; a sweep has {MOST_STUDIES} at most")
    # What is crossed decides which conditions of a search hold.
    crossed = [Study("", 0, "", 0, values) for values in config.factor_combinations()]
    trials = cells * config.repeats * sum(trials_by_study(config, crossed))
    if trials > MOST_TRIALS:
        grid = search.sampler.name == "grid" and search.distributions
        each = "points of the grid (search.space)" if grid else f"{search.samples} samples"
        raise InputError(f"{factors} x {each} = {trials} trials; a sweep has {MOST_TRIALS} at most")
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


def _grid_points(config: Config, study: Study) -> int:
    """How many combinations of searched settings there are, without making them.

    Raises:
        InputError: conditions make the combinations too many to count.
    """
    space = config.search.distributions
    order = _parents_first(space, space)
    base = _settings_of(config, study)
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
                f"search.space: settings on which others depend have more than {MOST_CHECKS} "
                "combinations; a grid can't be so large"
            )
        points = 1
        for path in order[k:]:
            k += 1
            if not _applies(path, space, base, chosen):
                continue
            if path in decisive:
                values = _grid_values(space[path])
                return points * sum(count(k, {**chosen, path: value}) for value in values)
            points *= _grid_size(space[path])
        return points

    return count(0, {})


def combinations(config: Config, study: Study, only: str = "") -> Iterator[dict[str, Any]]:
    """Every combination of the searched settings, conditions respected.

    Args:
        config: the configuration.
        study: whose crossed factors decide conditions.
        only: only paths below this one and what they depend on; ranges are then represented by
            both ends.
    """
    space = config.search.distributions
    order = _parents_first(space, [p for p in space if not only or p.split(".")[0] == only])
    base = _settings_of(config, study)

    def extend(k: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if k == len(order):
            yield chosen
            return
        path = order[k]
        if not _applies(path, space, base, chosen):
            yield from extend(k + 1, chosen)
            return
        for value in space[path].representatives() if only else _grid_values(space[path]):
            yield from extend(k + 1, {**chosen, path: value})

    return extend(0, {})


def importance_evaluator(
    config: Config, params: Iterable[Mapping[str, Any]]
) -> Callable[[NDArray[np.float64]], dict[str, float]]:
    """How much each searched setting decided which trials are among the best, by Optuna's PED-ANOVA.

    Watanabe et al. 2023 (arXiv 2304.10255), with conditional settings as in the conditional PED-ANOVA
    (arXiv 2601.20800), which is why it and not fANOVA: that leaves out every setting that some trial
    doesn't have.

    Args:
        config: its search space says what was searched.
        params: the searched settings of each trial, as {dotted path: value}.

    Returns:
        A function from scores [trials], lower is better, to {path: divergence}: how different
        the setting is distributed among the best tenth (with all that tie with its last) from among
        all trials; 0 is not at all. Not normalised.
    """
    space = config.search.distributions
    study = optuna.create_study()
    for chosen in params:
        known = {path: space[path] for path in chosen if path in space}
        study.add_trial(
            optuna.trial.create_trial(
                value=0.0,
                params={path: _encode(known[path], chosen[path]) for path in known},
                distributions={path: _to_optuna(known[path]) for path in known},
            )
        )
    evaluator = PedAnovaImportanceEvaluator()

    def evaluate(scores: NDArray[np.float64]) -> dict[str, float]:
        with warnings.catch_warnings():
            # That lower is better, that `normalize` is new, that a condition rarely held.
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(
                study,
                evaluator=evaluator,
                target=lambda trial: float(scores[trial.number]),
                normalize=False,
            )
        return dict(sorted(found.items()))

    return evaluate


class StudySearch:
    """The search of one study.

    Args:
        study: which one.
        config: the configuration.
    """

    def __init__(self, study: Study, config: Config) -> None:
        self.study = study
        self.config = config
        self._space = config.search.distributions
        self._order = _parents_first(self._space, self._space)
        self._base = _settings_of(config, study)
        self._trial_states: dict[int, dict[str, Any]] = {}
        self._study_state: dict[str, Any] = {}
        self._grid = combinations(config, study)
        self._points: list[dict[str, Any]] = []  # of the grid, as far as they were asked for
        self.optuna = optuna.create_study(
            study_name=study.id,
            directions=_directions(config),
        )
        for key, value in study.key.items():
            self.optuna.set_user_attr(key, value)

    def ask(self, number: int) -> dict[str, Any]:
        """The searched settings of the `number`-th trial, as {dotted path: value}."""
        if not self._space:
            return {}
        if self.config.search.sampler.name == "grid":
            missing = max(0, number + 1 - len(self._points))
            self._points += itertools.islice(self._grid, missing)
            if number >= len(self._points):
                raise IndexError(f"the grid of {self.study.id} has no point {number}")
            return self._points[number]
        sampler = self.config.search.sampler
        # Start-up trials are random; a seed without the study gives all cells the same ones.
        of_study = () if number < _startup(sampler) else (self.study.key,)
        seed = derive(self.config.seed, "search", number, *of_study)
        # Asked in a copy: a trial left running in the study would move later suggestions.
        scratch = optuna.create_study(
            directions=self.optuna.directions, sampler=_sampler(sampler, seed, self.config.seed)
        )
        scratch.add_trials(self.optuna.get_trials(deepcopy=False))
        storage, identity = scratch._storage, scratch._study_id
        for key, value in self._study_state.items():
            storage.set_study_system_attr(identity, key, value)
        trial = scratch.ask()
        chosen: dict[str, Any] = {}
        for path in self._order:
            if _applies(path, self._space, self._base, chosen):
                chosen[path] = _suggest(trial, path, self._space[path])
        # What some samplers (CMA-ES, quasi-Monte Carlo) remember between suggestions.
        self._study_state = storage.get_study_system_attrs(identity)
        self._trial_states[number] = scratch.get_trials(deepcopy=False)[-1].system_attrs
        return chosen

    def tell(self, number: int, params: Mapping[str, Any], values: list[float] | None) -> None:
        """Add a trial's outcome, as `outcome_of` says it. To be called in the order of numbers."""
        distributions = {
            path: _to_optuna(self._space[path]) for path in params if path in self._space
        }
        self.optuna.add_trial(
            optuna.trial.create_trial(
                state=TrialState.FAIL if values is None else TrialState.COMPLETE,
                values=values,
                params={path: _encode(self._space[path], params[path]) for path in distributions},
                distributions=distributions,
                system_attrs=self._trial_states.pop(number, {}),
            )
        )


class SweepSearcher(Searcher):
    """Hands Ray Tune one trial after the other, and learns from the ledger's own figures.

    A study's next round of suggestions waits for the results of the one before; parallelism comes from
    running many studies. Every trial is in the ledger before it is handed out. A trial that the ledger
    has as running is handed out again under its number, with its parameters.

    A trial whose settings have the effect of an earlier one's of its study is not handed out: the
    earlier result is copied into its record, with `copied_from`. It waits until the earlier trial has
    ended, so that which trials are copies depends on no timing.

    Args:
        studies: in the order in which they should run.
        config: the configuration.
        ledger: what has happened so far.
        on_event: told (event, record) for `started`, `ended`, `again` and `lost` trials; and
            (`said`, text) of what a worker has to say.
        limit: says how many trials may be handed out at the same time, whenever it is asked.
        gpu: the share of a GPU, or the number of them, that a trial gets; one that runs out of memory is
            tried again with twice the share.
        shape: see `EffectiveSettings`.

    Attributes:
        lost: trials whose workers died more than `RETRIES` times at one point.
        stopped: what keeps the ledger from being written, and so the sweep from going on; or nothing.
        exhausted: whether everything that could be handed out has ended.
    """

    def __init__(
        self,
        studies: Iterable[Study],
        config: Config,
        ledger: Ledger,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda event, record: None,
        limit: Callable[[], int] | None = None,
        gpu: float = 0.0,
        shape: Callable[[str, int], Shape] | None = None,
    ) -> None:
        super().__init__()
        self._config = config
        self._ledger = ledger
        self._on_event = on_event
        self._limit = limit
        self._gpu = gpu
        self._effective = EffectiveSettings(shape)
        self._larger: set[str] = set()
        self._running: dict[str, tuple[_Round, int]] = {}
        self._left: deque[_Round] = deque()
        self._failures: Counter[tuple[str, int | None]] = Counter()
        self.lost: list[str] = []
        self.stopped = ""
        self.exhausted = False
        started = ledger.trial_ids()
        studies = list(studies)
        for study, total in zip(studies, trials_by_study(config, studies), strict=True):
            if any(study.trial(number) in started for number in range(total)):
                records = [ledger.read(study.trial(number)) for number in range(total)]
                left = [n for n, r in enumerate(records) if r is None or r["status"] == "running"]
                if not left:
                    continue
                search = StudySearch(study, config)
                self._left.append(
                    _Round(search, total, config.search.parallel_per_study, records, self._key)
                )
            else:
                self._left.append(
                    _Round(study, total, config.search.parallel_per_study, [], self._key, config)
                )

    def suggest(self, trial_id: str) -> Any:
        """The next trial for Tune, None when all that is left must wait, FINISHED at the end."""
        if self._limit is not None and len(self._running) >= self._limit():
            return None
        while self._left and not self.stopped:
            current = self._left[0]
            asked = current.next()
            if asked is None:
                self._left.popleft()  # comes back when its round is over
                continue
            number, params, original = asked
            study = current.study
            record = self._content(study, number, params)
            trial = study.trial(number)
            if original is not None:
                try:
                    copied = self._copy(trial, record, original)
                except OSError as error:
                    self.stopped = str(error)
                    break
                self._on_event("ended", copied)
                current.done(number, copied)  # it stays the first of those left
                continue
            before = self._ledger.read(trial)
            # A worker that is thought dead may have finished after all.
            if before is None or before["status"] == "running":
                try:
                    self._ledger.begin(trial, record)
                except OSError as error:
                    self.stopped = str(error)
                    break
            self._running[trial_id] = (current, number)
            self._on_event("started", {**record, "trial": trial})
            larger = trial in self._larger
            return {
                "spec": json.dumps({**record, "trial": trial}),
                "gpu": min(1.0, 2 * self._gpu) if larger else self._gpu,
                "larger": larger,
            }
        if self._running:
            return None
        self.exhausted = not self.stopped
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on what a worker has to say; nothing is learned from intermediate results."""
        if SAID in result:
            self._on_event("said", {"text": result[SAID]})

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Read what the ledger says of the trial; one that it doesn't know as ended is tried again."""
        if trial_id not in self._running:
            return
        current, number = self._running.pop(trial_id)
        trial = current.study.trial(number)
        record = self._ledger.read(trial)
        if record is None or record["status"] == "running":
            if result is not None and STOPPED in result:
                self.stopped = result[STOPPED]
                return
            # A failure of a machine, not of a trial: Optuna never hears of it.
            if record is not None and record.get("out_of_memory") and 0 < self._gpu < 1:
                self._larger.add(trial)
                record["error"] += "; it gets twice the share of a GPU"
            # A long trial may outlive many nodes; only one that gets no further is given up.
            at = (trial, self._ledger.reached(trial))
            self._failures[at] += 1
            again = self._failures[at] <= RETRIES
            if again:
                current.again(number)
                self._left.appendleft(current)
            else:
                self.lost.append(trial)
            self._on_event("again" if again else "lost", record or {"trial": trial})
            return
        self._on_event("ended", record)
        if current.done(number, record):
            self._left.appendleft(current)

    def __getstate__(self) -> dict[str, Any]:
        # The Tuner pickles itself for its own recovery, which is never used.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshots are off; the ledger is what survives."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def _copy(
        self, trial: str, content: Mapping[str, Any], original: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Record a trial with the result of an equal one; returns the record."""
        before = self._ledger.read(trial)
        if before is None or before["status"] == "running":
            self._ledger.begin(trial, content)
        result = {key: original[key] for key in _RESULT if key in original}
        outcome = {
            **result,
            "copied_from": original["trial"],
            "started": time.time(),
            "seconds": 0.0,
        }
        return self._ledger.finish(trial, outcome, predictions_of(original))

    def _key(self, study: Study, params: Mapping[str, Any]) -> str:
        settings = trial_settings(self._config.settings, {**study.factors, **params})
        return self._effective.key(study, settings)

    def _content(self, study: Study, number: int, params: Mapping[str, Any]) -> dict[str, Any]:
        settings = trial_settings(self._config.settings, {**study.factors, **params})
        return {
            **study.key,
            "study": study.id,
            "number": number,
            "params": dict(params),
            "settings": settings.model_dump(mode="json"),
        }


class _Asked(NamedTuple):
    """A trial that may start now, and the record of an equal one whose result is also its own."""

    number: int
    params: dict[str, Any]
    original: dict[str, Any] | None


class _Round:
    """Where a study stands: which numbers may be asked now, and whose results are awaited.

    Args:
        search: the study, or its search.
        total: number of trials of the study.
        size: number of trials that are asked for at a time.
        records: of the trials, by number, as far as there are any.
        key: equal for parameters with equal results; see `EffectiveSettings`.
        config: the configuration, if `search` is a study.
    """

    def __init__(
        self,
        search: StudySearch | Study,
        total: int,
        size: int,
        records: list[dict[str, Any] | None],
        key: Callable[[Study, Mapping[str, Any]], str],
        config: Config | None = None,
    ) -> None:
        # A study that has not begun is built when its turn comes: 10,000 of them take memory.
        self._search = search
        self._config = config
        self._key = key
        self._keys: list[str] = []
        self._waiting = False
        self._total = total
        self._size = size
        self._records: dict[int, dict[str, Any]] = {n: r for n, r in enumerate(records) if r}
        self._told = 0
        self._handed_out: set[int] = set()
        self._params: list[dict[str, Any]] = []  # what Optuna was asked for, in order
        self._tell_whole_rounds()

    @property
    def study(self) -> Study:
        return self._search if isinstance(self._search, Study) else self._search.study

    def next(self) -> _Asked | None:
        """The next trial that may start now, or None."""
        self._waiting = False
        for number in range(self._told, min(self._told + self._size, self._total)):
            record = self._records.get(number)
            if number in self._handed_out or (record and record["status"] != "running"):
                continue
            self._ask_up_to(number)
            original, waits = self._original(number)
            if waits:
                self._waiting = True
                continue
            self._handed_out.add(number)
            return _Asked(number, self._params_of(number), original)
        return None

    def again(self, number: int) -> None:
        """Hand a number out once more."""
        self._handed_out.discard(number)

    def done(self, number: int, record: dict[str, Any]) -> bool:
        """Take a result; True when `next` may give more than before."""
        self._records[number] = record
        return self._tell_whole_rounds() or self._waiting

    def _original(self, number: int) -> tuple[dict[str, Any] | None, bool]:
        """The record of the first equal trial with a result, and whether one has still to end."""
        while number and len(self._keys) <= number:
            self._keys.append(self._key(self.study, self._params_of(len(self._keys))))
        for earlier in range(number):
            if self._keys[earlier] != self._keys[number]:
                continue
            record = self._records.get(earlier)
            if record is None or record["status"] == "running":
                return None, True
            if _is_repeatable(record):
                return record, False
        return None, False

    def _params_of(self, number: int) -> dict[str, Any]:
        record = self._records.get(number)
        params: dict[str, Any] = record["params"] if record else self._params[number]
        return params

    def _tell_whole_rounds(self) -> bool:
        """Tell Optuna the rounds that are complete, in the order of their numbers."""
        opened = False
        while self._told < self._total:
            numbers = range(self._told, min(self._told + self._size, self._total))
            records = [self._records.get(number) for number in numbers]
            if any(record is None or record["status"] == "running" for record in records):
                return opened
            self._ask_up_to(numbers[-1])
            # What is told is what was recorded, whatever this version of Optuna would suggest.
            for number, record in zip(numbers, records, strict=True):
                assert record is not None
                search = self._open()
                search.tell(number, record["params"], outcome_of(record, search.config))
            self._told = numbers.stop
            opened = self._told < self._total
        return opened

    def _ask_up_to(self, number: int) -> None:
        """Ask in order, also for what an earlier process asked: some samplers have a memory."""
        while len(self._params) <= number:
            self._params.append(self._open().ask(len(self._params)))

    def _open(self) -> StudySearch:
        if isinstance(self._search, Study):
            assert self._config is not None
            self._search = StudySearch(self._search, self._config)
        return self._search


def _is_repeatable(record: Mapping[str, Any]) -> bool:
    """Whether an equal trial is certain to end like this one.

    An exception may come from the machine. A loss that stopped being finite is recorded without one.
    """
    return record["status"] == "finished" or "traceback" not in record


def _startup(sampler: SamplerConfig) -> float:
    """How many first trials of a study the sampler draws without a look at results."""
    cls = _SAMPLERS[_CLASSES.get(sampler.name, sampler.name)]
    if cls.__name__ in _BLIND:
        return math.inf
    parameters = inspect.signature(cls).parameters
    for name in ("n_startup_trials", "population_size"):
        if name in parameters:
            return float(sampler.options.get(name, parameters[name].default))
    return 0


def _sampler(sampler: SamplerConfig, seed: int, sweep_seed: int = 0) -> BaseSampler:
    cls: Any = _SAMPLERS[_CLASSES.get(sampler.name, sampler.name)]
    if sampler.name == "QMCSampler":
        # One sequence, under one seed; what it can't place is drawn at random, anew each time.
        options = {"independent_sampler": RandomSampler(seed=seed % 2**32), **sampler.options}
        sequence: BaseSampler = cls(**options, seed=derive(sweep_seed, "sequence") % 2**32)
        return sequence
    built: BaseSampler = cls(**sampler.options, seed=seed % 2**32)
    return built


def _directions(config: Config) -> list[StudyDirection]:
    ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    return [ways[mode] for mode in config.search.goals.values()]


def _parents_first(space: Mapping[str, Distribution], wanted: Iterable[str]) -> list[str]:
    """Paths of a space with all that they depend on, every parent before what depends on it.

    The configuration's check has seen that no path depends on itself.
    """
    order: list[str] = []

    def visit(path: str) -> None:
        if path in order:
            return
        for parent in space[path].when:
            for other in sorted(space):
                # The parent itself, or a section that is chosen as a whole and holds it.
                if other != path and f"{parent}.".startswith(f"{other}."):
                    visit(other)
        order.append(path)

    # Sorted: the order of keys in a file must not move what a sampler draws for them.
    for path in sorted(wanted):
        visit(path)
    return order


def _settings_of(config: Config, study: Study) -> dict[str, Any]:
    """The settings of a study before anything is searched."""
    return trial_settings(config.settings, study.factors).model_dump()


def _applies(
    path: str,
    space: Mapping[str, Distribution],
    base: Mapping[str, Any],
    chosen: Mapping[str, Any],
) -> bool:
    """Whether the conditions of a path hold, given what was chosen of its parents."""
    conditions = space[path].when
    if any(parent in space and parent not in chosen for parent in conditions):
        return False  # a parent that doesn't apply itself
    settings = replaced(base, chosen) if conditions else base
    for parent, wanted in conditions.items():
        try:
            value = look_up(settings, parent)
        except KeyError:
            return False
        if value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def _size(distribution: Distribution) -> float:
    """The number of values that a distribution has; infinite for a range of floats without steps."""
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
    """How many values `_grid_values` gives."""
    if distribution.type == "categorical":
        return len(distribution.choices or [])
    low, high, step = _ends_and_step(distribution)
    return int((high - low) / step) + 1


def _ends_and_step(distribution: Distribution) -> tuple[Decimal, Decimal, Decimal]:
    # In decimals, so that 0.1 + 2 * 0.1 is 0.3.
    low, high, step = distribution.low, distribution.high, distribution.step or 1
    return Decimal(str(low)), Decimal(str(high)), Decimal(str(step))


def _suggest(trial: optuna.Trial, path: str, distribution: Distribution) -> Any:
    wanted = _to_optuna(distribution)
    if isinstance(wanted, CategoricalDistribution):
        raw = trial.suggest_categorical(path, wanted.choices)
        return next(c for c in distribution.choices or [] if _scalar(c) == raw)
    if isinstance(wanted, IntDistribution):
        return trial.suggest_int(path, wanted.low, wanted.high, log=wanted.log, step=wanted.step)
    assert isinstance(wanted, FloatDistribution)
    return trial.suggest_float(path, wanted.low, wanted.high, log=wanted.log, step=wanted.step)


def _to_optuna(distribution: Distribution) -> BaseDistribution:
    if distribution.type == "categorical":
        # Optuna stores scalars only; anything else travels as JSON text.
        return CategoricalDistribution([_scalar(c) for c in distribution.choices or []])
    assert distribution.low is not None
    assert distribution.high is not None
    if distribution.type == "int":
        step = int(distribution.step or 1)
        low, high = int(distribution.low), int(distribution.high)
        return IntDistribution(low, high, log=distribution.log, step=step)
    return FloatDistribution(
        distribution.low, distribution.high, log=distribution.log, step=distribution.step
    )


def _encode(distribution: Distribution, value: Any) -> Any:
    return _scalar(value) if distribution.type == "categorical" else value


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, sort_keys=True)
