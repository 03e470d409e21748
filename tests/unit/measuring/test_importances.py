"""Importances of searched settings, on searches whose answer is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stitch_sweep.config.root import Config
from stitch_sweep.measuring.importances import SHUFFLES, importances, shares_better
from tests.support.measured_sweep import (
    TREE,
)


def searched(space: dict[str, Any], samples: int = 8) -> Config:
    search = {"space": space, "samples": samples}
    return Config.model_validate({**TREE, "controls": [], "search": search})


def many_trials(
    config: Config, studies: int, score: Any, spread: float = 1.0
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Run a random search in several cells; the accuracies of every second cell have a small spread."""
    numbers = np.random.default_rng(0)
    rows, params = [], {}
    for study, number in itertools.product(range(studies), range(config.search.samples)):
        chosen: dict[str, Any] = {}
        for path, distribution in config.search.distributions.items():
            if any(chosen.get(parent) != value for parent, value in distribution.when.items()):
                continue
            if distribution.choices:
                chosen[path] = distribution.choices[numbers.integers(len(distribution.choices))]
            elif distribution.type == "int":
                chosen[path] = int(numbers.integers(distribution.low, distribution.high + 1))
            else:
                chosen[path] = float(numbers.uniform(distribution.low, distribution.high))
        trial = f"t{study}-{number}"
        params[trial] = chosen
        metric = score(chosen, numbers) * (1 if study % 2 else spread)
        rows.append(
            {"trial": trial, "sender": "a", "receiver": "b", "sender_layer": study,
             "receiver_layer": 0, "repeat": 0, "number": number, "status": "finished",
             "metric": metric}
        )  # fmt: skip
    return pd.DataFrame(rows), params


SPACE = {
    "training.optimizer.lr": {"type": "float", "low": 0.0, "high": 1.0},
    "training.batch_size": {"type": "categorical", "choices": [32, 64, 128]},
}


def test_the_setting_that_decides_is_found_whatever_scale_a_cell_has():
    config = searched(SPACE)
    score = lambda chosen, numbers: -abs(chosen["training.optimizer.lr"] - 0.3)  # noqa: E731
    for spread in (1.0, 1e-3):
        result = importances(*many_trials(config, 20, score, spread), config)
        assert result["setting"].tolist() == list(SPACE)
        assert result["importance"].sum() == pytest.approx(1)
        assert result.loc[0, "importance"] > 0.8
        assert result.loc[0, "p_value"] == 1 / (SHUFFLES + 1)
        assert result.loc[0, ["studies", "trials", "best"]].tolist() == [20, 160, 20]


def test_a_setting_that_decides_nothing_has_no_small_p_value():
    """The importances sum to 1 even if no setting matters."""
    config = searched(SPACE)
    result = importances(*many_trials(config, 20, lambda _, numbers: numbers.uniform()), config)
    assert result["importance"].sum() == pytest.approx(1)
    assert (result["p_value"] > 0.05).all()


def test_a_conditional_setting_counts_where_it_applies():
    config = searched(
        {
            "stitch.name": {"type": "categorical", "choices": ["paper", "lowrank"]},
            "stitch.rank": {"type": "int", "low": 1, "high": 8, "when": {"stitch.name": "lowrank"}},
        }
    )

    def score(chosen: dict[str, Any], numbers: np.random.Generator) -> float:
        return chosen.get("stitch.rank", 4) + 0.01 * numbers.uniform()

    result = importances(*many_trials(config, 30, score), config).set_index("setting")
    assert result.loc["stitch.rank", "p_value"] == 1 / (SHUFFLES + 1)
    assert result.loc["stitch.rank", "importance"] > 0.5


def test_where_all_trials_are_equal_nothing_is_important():
    config = searched(SPACE)
    result = importances(*many_trials(config, 5, lambda *_: 0.5), config)
    assert result["importance"].isna().all()
    assert result["p_value"].isna().all()


def test_a_failed_trial_is_the_worst_of_its_study():
    metric = np.array([0.2, np.nan, 0.9, 0.9])
    assert shares_better(metric, "max").tolist() == [0.5, 0.75, 0, 0]
    assert shares_better(-metric, "min").tolist() == [0.5, 0.75, 0, 0]
    assert shares_better(np.exp(7 * metric), "max").tolist() == [0.5, 0.75, 0, 0]


def test_stopped_trials_are_worse_than_finished_ones_whatever_their_value():
    """Their value is of an earlier epoch; a loss that early may even be the lowest."""
    config = searched(SPACE)
    score = lambda chosen, numbers: -abs(chosen["training.optimizer.lr"] - 0.3)  # noqa: E731
    results, params = many_trials(config, 12, score)
    far = results["metric"] < results["metric"].median()
    failed = results.assign(
        status=results["status"].mask(far, "failed"), metric=results["metric"].mask(far)
    )
    stopped = results.assign(
        status=results["status"].mask(far, "stopped"), metric=results["metric"].mask(far, 9.0)
    )
    pd.testing.assert_frame_equal(
        importances(stopped, params, config), importances(failed, params, config)
    )
