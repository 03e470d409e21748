"""The Optuna study behind each study of a sweep: suggestions and results.

A suggestion is a function of (seed, study, number, earlier results of that study). A new sampler is made
for each suggestion, under a seed derived from them, so neither a resume nor the number of workers changes
a suggestion.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from stitch_sweep.config.root import Config
from stitch_sweep.core.seeding import derive
from stitch_sweep.plan.distributions import (
    encode_value,
    optuna_directions,
    suggest_value,
    to_optuna,
)
from stitch_sweep.plan.enqueue import enqueued_settings
from stitch_sweep.plan.objectives import learning_curve, objective_values
from stitch_sweep.plan.samplers import build_sampler, count_startup_trials
from stitch_sweep.plan.space import (
    combinations,
    is_applicable,
    order_parents_first,
    settings_before_search,
)
from stitch_sweep.storage.study import Study


class StudySearch:
    """The search of one study.

    It begins with the settings of neighboring studies and of `search.enqueue`, each once.

    Args:
        study: the study.
        config: the configuration.
        shared: settings of neighboring studies, from `neighbors.shared_settings`.

    Attributes:
        optuna: the Optuna study, with every trial that `tell` was called for.
    """

    def __init__(
        self, study: Study, config: Config, shared: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        self.study = study
        self.config = config
        self._space = config.search.distributions
        self._order = order_parents_first(self._space, self._space)
        self._base = settings_before_search(config, study)
        self._trial_states: dict[int, dict[str, Any]] = {}
        self._study_state: dict[str, Any] = {}
        self._grid = combinations(config, study)
        self._beginning: list[dict[str, Any]] = []
        for settings in (*shared, *enqueued_settings(config, study)):
            if settings and settings not in self._beginning:
                self._beginning.append(dict(settings))
        self._points: list[dict[str, Any]] = []  # points of the grid that were asked for
        self.optuna = optuna.create_study(
            study_name=study.id,
            directions=optuna_directions(config),
        )
        for key, value in study.key.items():
            self.optuna.set_user_attr(key, value)

    def ask(self, number: int) -> dict[str, Any]:
        """Return the searched settings of a trial, as {dotted path: value}.

        Args:
            number: of the trial. Ask in the order of the numbers: some samplers keep a state.

        Raises:
            IndexError: the grid has no such point.
        """
        if not self._space:
            return {}
        if self.config.search.sampler.name == "grid":
            missing = max(0, number + 1 - len(self._points))
            self._points += itertools.islice(self._grid, missing)
            if number >= len(self._points):
                raise IndexError(f"the grid of {self.study.id} has no point {number}")
            return self._points[number]
        return self._sample(number)

    def tell_record(self, record: Mapping[str, Any]) -> None:
        """Add the result of an ended trial. Call it in the order of the numbers.

        A stopped trial is a pruned one for Optuna. With a scheduler, Optuna gets learning curves too.
        """
        curve = learning_curve(record, self.config) if self.config.search.scheduler else []
        values = objective_values(record, self.config)
        was_stopped = record["status"] == "stopped"
        self.tell(record["number"], record["params"], values, curve, stopped=was_stopped)

    def tell(
        self,
        number: int,
        params: Mapping[str, Any],
        values: list[float] | None,
        curve: Sequence[float] = (),
        *,
        stopped: bool = False,
    ) -> None:
        """Add a trial's result. Call it in the order of the numbers.

        Args:
            number: of the trial.
            params: its searched settings, as {dotted path: value}.
            values: a value for each objective, from `objective_values`; None for a failed or stopped
                trial.
            curve: the search metric after each epoch.
            stopped: whether a scheduler stopped the trial.
        """
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        if stopped:  # as `optuna.Study.tell` does for a pruned trial
            state, values = TrialState.PRUNED, [curve[-1]]
        distributions = {
            path: to_optuna(self._space[path]) for path in params if path in self._space
        }
        self.optuna.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=values,
                intermediate_values=dict(enumerate(curve, start=1)),
                params={
                    path: encode_value(self._space[path], params[path]) for path in distributions
                },
                distributions=distributions,
                system_attrs=self._trial_states.pop(number, {}),
            )
        )

    def _sample(self, number: int) -> dict[str, Any]:
        sampler = self.config.search.sampler
        # Start-up trials are random; a seed without the study's key gives all studies the same ones.
        key = () if number < count_startup_trials(sampler) else (self.study.key,)
        seed = derive(self.config.seed, "search", number, *key)
        # Ask a copy: a running trial that stays in the study would change later suggestions.
        storage = optuna.storages.InMemoryStorage()
        copy = optuna.create_study(
            storage=storage,
            directions=self.optuna.directions,
            sampler=build_sampler(sampler, seed, self.config.seed),
        )
        copy.add_trials(self.optuna.get_trials(deepcopy=False))
        identity = storage.get_study_id_from_name(copy.study_name)
        for name, value in self._study_state.items():
            storage.set_study_system_attr(identity, name, value)
        if number < len(self._beginning):
            settings = self._beginning[number]
            copy.enqueue_trial(
                {path: encode_value(self._space[path], value) for path, value in settings.items()}
            )
        trial = copy.ask()
        chosen: dict[str, Any] = {}
        for path in self._order:
            if is_applicable(path, self._space, self._base, chosen):
                chosen[path] = suggest_value(trial, path, self._space[path])
        # The state that some samplers (CMA-ES, quasi-Monte Carlo) keep between suggestions.
        self._study_state = storage.get_study_system_attrs(identity)
        self._trial_states[number] = copy.get_trials(deepcopy=False)[-1].system_attrs
        return chosen
