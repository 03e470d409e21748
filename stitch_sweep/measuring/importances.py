"""Which searched settings mattered, over all cells of a pair."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pandas as pd

from stitch_sweep.analysis.results import CELL, PAIR, factor_columns
from stitch_sweep.config.models import Config
from stitch_sweep.core.seeding import derive
from stitch_sweep.plan.search import importance_evaluator

EVALUATOR = f"PED-ANOVA (optuna {optuna.__version__})"
SHUFFLES = 99
"""So often the ranks of every study are shuffled for a p-value; the smallest is 1 / (SHUFFLES + 1)."""


def shares_better(metric: np.ndarray, mode: str) -> np.ndarray:
    """For each trial of one study, the share of its trials that did better: 0 for the best.

    Ranks make studies comparable: one cell's accuracies spread over 0.02, another's over 0.6, and
    pooled as they are, centred or not, the second would be all that is seen.

    Args:
        metric: [N], NaN for a failed trial, than which every finished one is better.
        mode: whether "max" or "min" is best.

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
    """Importances of the searched settings, per sender, receiver and combination of factors.

    The studies of a group (its cells and repeats) are pooled by `shares_better`; a study of a single
    ended trial says nothing and is left out. What is asked is then: how differently are a setting's
    values distributed among the best tenth of all trials (in studies of up to ten, the best trial of
    each) from among all? See `sweep.search.importance_evaluator`.

    Args:
        results: a row per ended trial, as `load_results` returns it.
        params: the searched settings of each trial, by its id.
        config: what was searched, and the seed of the shuffles.
        on_progress: told (groups done, groups in all).

    Returns:
        A row per group and setting: the numbers of `studies` and `trials`, and of `best` trials (with
        fewer than 5 of them the figures are rough); `importance`, normalised to a sum of 1 within the
        group, which it has even when nothing mattered; therefore `p_value`: the shares are shuffled
        within every study `SHUFFLES` times, and it is how many of these, and of what was observed, gave
        at least as much, of `SHUFFLES` + 1. It takes the trials of a study as exchangeable, which is
        exact for random search and nearly true for a sampler that learns. Both are NaN where all
        trials are equally good.
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
            rows += [{**identity, **row} for row in _group(studies, params, config, str(key))]
    columns = ["studies", "trials", "best", "setting", "importance", "p_value", "evaluator"]
    found = pd.DataFrame(rows, columns=[*keys, *columns])
    return found.astype({name: results[name].dtype for name in keys}) if rows else found


def _group(
    studies: list[pd.DataFrame], params: dict[str, dict[str, Any]], config: Config, label: str
) -> list[dict[str, Any]]:
    scores = [
        shares_better(s["metric"].to_numpy(dtype="float64"), config.search.mode) for s in studies
    ]
    together = np.concatenate(scores)
    evaluate = importance_evaluator(config, [params[t] for s in studies for t in s["trial"]])
    observed = evaluate(together)
    generator = np.random.default_rng(derive(config.seed, "importances", label))
    reached = dict.fromkeys(observed, 1)
    for _ in range(SHUFFLES):
        shuffled = evaluate(np.concatenate([generator.permutation(s) for s in scores]))
        for path, value in shuffled.items():
            # The same trials in another order may differ in the last bits.
            reached[path] += value >= observed[path] * (1 - 1e-9)
    total = sum(observed.values())
    cutoff = np.sort(together)[math.ceil(0.1 * len(together)) - 1]
    return [
        {
            "studies": len(studies),
            "trials": len(together),
            "best": int((together <= cutoff).sum()),
            "setting": path,
            "importance": value / total if total > 0 else math.nan,
            "p_value": reached[path] / (SHUFFLES + 1) if total > 0 else math.nan,
            "evaluator": EVALUATOR,
        }
        for path, value in sorted(observed.items(), key=lambda item: (-item[1], item[0]))
    ]
