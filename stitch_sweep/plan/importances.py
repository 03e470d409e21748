"""The importance of searched settings, by Optuna's PED-ANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.importance import PedAnovaImportanceEvaluator

from stitch_sweep.config.root import Config
from stitch_sweep.plan.distributions import encode_value, to_optuna


def importance_evaluator(
    config: Config, params: Iterable[Mapping[str, Any]]
) -> Callable[[NDArray[np.float64]], dict[str, float]]:
    """Prepare the importances of searched settings for the scores of some trials.

    The importance of a setting is the divergence between its distribution among the best tenth of the
    trials (with all trials that tie with the last of them) and its distribution among all trials. It
    is 0 where both are equal, and not normalized.

    Watanabe et al. 2023 (arXiv 2304.10255); conditional settings as in the conditional PED-ANOVA (arXiv
    2601.20800). fANOVA is no alternative: it drops every setting that some trial doesn't have.

    Args:
        config: its search space lists the searched settings.
        params: the searched settings of each trial, as {dotted path: value}.

    Returns:
        A function from scores [trials], lower is better, to {path: importance}.
    """
    space = config.search.distributions
    study = optuna.create_study()
    for chosen in params:
        searched = {path: space[path] for path in chosen if path in space}
        study.add_trial(
            optuna.trial.create_trial(
                value=0.0,
                params={path: encode_value(searched[path], chosen[path]) for path in searched},
                distributions={path: to_optuna(searched[path]) for path in searched},
            )
        )
    evaluator = PedAnovaImportanceEvaluator()

    def evaluate(scores: NDArray[np.float64]) -> dict[str, float]:
        with warnings.catch_warnings():
            # Optuna warns that lower is better, that `normalize` is new, that a condition rarely held.
            warnings.simplefilter("ignore")
            importances = optuna.importance.get_param_importances(
                study,
                evaluator=evaluator,
                target=lambda trial: float(scores[trial.number]),
                normalize=False,
            )
        return dict(sorted(importances.items()))

    return evaluate
