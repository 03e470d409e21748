"""Importances of the searched settings, over all cells of a pair."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pandas as pd

from stitch_sweep.analysis.results import CELL, PAIR, factor_columns
from stitch_sweep.config.root import Config
from stitch_sweep.core.seeding import derive
from stitch_sweep.plan.importances import importance_evaluator

EVALUATOR = f"PED-ANOVA (optuna {optuna.__version__})"
SHUFFLES = 99
"""Number of shuffles for a p-value; the smallest p-value is 1 / (SHUFFLES + 1)."""


def shares_better(metric: np.ndarray, mode: str) -> np.ndarray:
    """Compute for each trial of a study the share of its trials that are better: 0 for the best.

    Ranks make studies comparable. The accuracies of one cell may spread over 0.02 and those of
    another over 0.6; pooled without ranks, only the second cell would count.

    Args:
        metric: [N], NaN for a failed or stopped trial, which is worse than every finished one.
        mode: "max" or "min".

    Returns:
        [N], in [0, 1).

    Example:
        >>> shares_better(np.array([0.5, 0.9, np.nan, 0.9]), "max")
        array([0.5 , 0.  , 0.75, 0.  ])
    """
    values = np.where(np.isnan(metric), -np.inf, metric if mode == "max" else -metric)
    return (values[None, :] > values[:, None]).sum(axis=1) / len(values)


def importances(
    results: pd.DataFrame,
    params: dict[str, dict[str, Any]],
    config: Config,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Compute the importances of the searched settings per sender, receiver and factor values.

    The studies of a group (its cells and repeats) are pooled by `shares_better`; a study with a single
    ended trial carries no information and is left out. The importance of a setting is the difference
    between its distribution among the best tenth of all trials (in studies of up to ten trials: the
    best trial of each) and its distribution among all. See `plan.importances.importance_evaluator`.

    The p-value comes from a permutation test: the shares are shuffled within every study `SHUFFLES`
    times, and the p-value is the number of importances, the observed one included, that are at least
    as large as the observed one, divided by `SHUFFLES` + 1. The test assumes that the trials of a study
    are exchangeable, which is exact for random search and nearly true for an adaptive sampler.

    Args:
        results: one row per ended trial, from `load_results`.
        params: the searched settings of each trial, by its id.
        config: the search space, and the seed of the shuffles.
        on_progress: called with (finished groups, all groups).

    Returns:
        One row per group and setting: the numbers of `studies` and `trials`; `best`, the number of
        best trials (with fewer than 5 the figures are rough); `importance`, normalized to a sum of 1
        within the group, even where no setting matters; and `p_value`. `importance` and `p_value` are
        NaN where all trials are equally good.
    """
    names = factor_columns(results)
    keys = [*PAIR, *names]
    groups = list(results.groupby(keys, dropna=False)) if config.search.distributions else []
    rows = []
    for done, (key, trials) in enumerate(groups):
        on_progress(done, len(groups))
        studies = [s for _, s in trials.groupby([*CELL, "repeat"]) if len(s) > 1]
        if studies:
            identity = dict(zip(keys, key, strict=True))
            rows += [{**identity, **row} for row in _group_rows(studies, params, config, str(key))]
    columns = ["studies", "trials", "best", "setting", "importance", "p_value", "evaluator"]
    table = pd.DataFrame(rows, columns=[*keys, *columns])
    return table.astype({name: results[name].dtype for name in keys}) if rows else table


def _group_rows(
    studies: list[pd.DataFrame], params: dict[str, dict[str, Any]], config: Config, label: str
) -> list[dict[str, Any]]:
    scores = [
        # A stopped trial is worse than every finished one; its value is of an earlier epoch.
        shares_better(
            s["metric"].where(s["status"] == "finished").to_numpy(dtype="float64"),
            config.search.mode,
        )
        for s in studies
    ]
    pooled = np.concatenate(scores)
    evaluate = importance_evaluator(config, [params[t] for s in studies for t in s["trial"]])
    observed = evaluate(pooled)
    generator = np.random.default_rng(derive(config.seed, "importances", label))
    at_least = dict.fromkeys(observed, 1)
    for _ in range(SHUFFLES):
        shuffled = evaluate(np.concatenate([generator.permutation(s) for s in scores]))
        for path, value in shuffled.items():
            # Sums of the same trials in another order may differ in the last bits.
            at_least[path] += value >= observed[path] * (1 - 1e-9)
    total = sum(observed.values())
    cutoff = np.sort(pooled)[math.ceil(0.1 * len(pooled)) - 1]
    return [
        {
            "studies": len(studies),
            "trials": len(pooled),
            "best": int((pooled <= cutoff).sum()),
            "setting": path,
            "importance": value / total if total > 0 else math.nan,
            "p_value": at_least[path] / (SHUFFLES + 1) if total > 0 else math.nan,
            "evaluator": EVALUATOR,
        }
        for path, value in sorted(observed.items(), key=lambda item: (-item[1], item[0]))
    ]
