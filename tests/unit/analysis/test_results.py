"""Loading results, and the best trial of a study."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.analysis.results import best_trials, load_results
from stitch_sweep.core.errors import InputError
from tests.support.trials import failed, table, trial


def test_validation_chooses_even_where_test_disagrees() -> None:
    results = table(
        trial(test=0.9, val_accuracy=0.5, number=0), trial(test=0.3, val_accuracy=0.6, number=1)
    )
    assert best_trials(results)["test_accuracy"].tolist() == [0.3]
    assert matrices(results)[0].values.loc[0, 0] == 0.3


@pytest.mark.parametrize("metric", ["test_accuracy", "test_loss", "penalty"])
def test_test_images_may_not_choose(metric: str) -> None:
    with pytest.raises(InputError, match="test images"):
        best_trials(table(trial()), metric)


def test_smallest_wins_when_minimising_and_lowest_number_on_a_tie() -> None:
    rows = [trial(number=n, metric=m) for n, m in [(3, 0.2), (2, 0.1), (1, 0.1), (0, 0.7)]]
    results = table(*rows)
    assert best_trials(results, "metric", "min")["number"].tolist() == [1]
    assert best_trials(results, "metric", "max")["number"].tolist() == [0]


def test_a_finished_trial_beats_failed_ones_and_a_missing_metric_comes_last() -> None:
    results = table(
        failed(0, 0, number=0) | {"val_accuracy": 0.99},
        trial(number=1, val_accuracy=math.nan),
        trial(number=2, val_accuracy=0.1),
        failed(0, 1, number=1),
        failed(0, 1, number=0),
    )
    best = best_trials(results)
    assert best["number"].tolist() == [2, 0]
    assert best["status"].tolist() == ["finished", "failed"]


def test_a_stopped_trial_represents_no_study() -> None:
    stopped = {"val_accuracy": None, "test_accuracy": None, "penalty": None, "converged": None}
    results = table(
        trial(trial="best", number=1, test=0.6),
        trial(trial="cut", number=0, metric=0.9, status="stopped", **stopped),
        failed(0, 1, trial="broken", number=1),
        trial(0, 1, trial="cut 2", number=0, status="stopped", **stopped),
        trial(1, 0, trial="cut 3", status="stopped", **stopped),
        trial(1, 1, trial="other", test=0.7),
    )
    assert best_trials(results)["trial"].tolist() == ["best", "broken", "other"]
    (matrix,) = matrices(results)
    assert matrix.failed.to_numpy().tolist() == [[False, True], [False, False]]
    # A cell of which all trials were stopped has no value, and its layers stay in the matrix.
    assert matrix.missing.to_numpy().tolist() == [[False, False], [True, False]]


def test_repeats_and_factors_are_studies_of_their_own() -> None:
    rows = [
        trial(repeat=r, number=n, **{"factor.loss": loss})
        for r in range(2)
        for n in range(3)
        for loss in ("mse", None)
    ]
    assert len(best_trials(table(*rows))) == 4


@pytest.mark.parametrize(("metric", "mode"), [("val_acuracy", "max"), ("val_accuracy", "best")])
def test_unknown_metric_or_mode(metric: str, mode: Any) -> None:
    with pytest.raises(InputError, match=r"val_accuracy|max, min"):
        best_trials(table(trial()), metric, mode)


def test_load_results_round_trip(tmp_path: Path) -> None:
    raw = pd.DataFrame([trial(), failed(1, 0), trial(2, 0, converged=False)])
    raw.to_parquet(tmp_path / "results.parquet")
    results = load_results(tmp_path)
    assert results["converged"].dtype == "boolean"
    assert results["sender_layer"].dtype == "int64"
    assert matrices(results)[0].failed[0].tolist() == [False, True, False]


def test_load_results_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        load_results(tmp_path / "none")
    with pytest.raises(InputError, match="no such file"):
        load_results(tmp_path)
    path = tmp_path / "results.parquet"
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match="not a readable parquet"):
        load_results(tmp_path)
    pd.DataFrame([trial()]).drop(columns=["sender", "penalty"]).to_parquet(path)
    with pytest.raises(InputError, match="missing columns: sender, penalty"):
        load_results(tmp_path)
    pd.DataFrame([trial()]).head(0).to_parquet(path)
    with pytest.raises(InputError, match="no trials"):
        load_results(tmp_path)
    wrong = trial(status="lost", sender_layer=0.5, val_accuracy="high", converged="often")
    wrong["factor.blocks"] = [1, 1]
    pd.DataFrame([wrong]).to_parquet(path)
    with pytest.raises(InputError) as caught:
        load_results(tmp_path)
    assert len(caught.value.problems) == 5
