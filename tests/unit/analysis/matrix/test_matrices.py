"""Matrices from tables of trials, and their names."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pandas as pd
import pytest

from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.analysis.matrix.matrix import Matrix
from tests.support.trials import awkward, failed, table, trial


def test_a_cell_is_the_mean_over_repeats_of_each_best_trial() -> None:
    results = table(
        trial(test=0.2, repeat=0, number=0, val_accuracy=0.1),
        trial(test=0.4, repeat=0, number=1, val_accuracy=0.2),
        trial(test=0.8, repeat=1),
        trial(0, 1, 0.5, repeat=0),
        failed(0, 1, repeat=1),
    )
    (matrix,) = matrices(results)
    assert matrix.values.loc[0, 0] == pytest.approx(0.6)
    assert matrix.values.loc[0, 1] == 0.5
    assert matrix.repeats == 2
    assert matrix.finished.loc[0].tolist() == [2, 1]
    assert not matrix.failed.any(axis=None)


def test_failed_missing_and_unconverged_cells_differ() -> None:
    matrix = awkward()
    assert matrix.values.index.tolist() == [0, 2, 10]
    assert matrix.values.columns.tolist() == [-1, 0]
    assert matrix.failed.to_numpy().tolist() == [[False, True], [False, False], [False, False]]
    assert matrix.missing.to_numpy().tolist() == [[True, False], [False, False], [False, False]]
    assert matrix.unconverged.to_numpy().tolist() == [[False] * 2, [False] * 2, [True, False]]
    assert matrix.converged.loc[10, 0] is pd.NA
    assert matrix.converged.loc[2, 0]
    assert (matrix.sender_accuracy, matrix.receiver_accuracy) == (0.8, 0.9)


def test_one_unconverged_repeat_marks_the_cell() -> None:
    rows = [trial(repeat=r, converged=c) for r, c in enumerate([True, False, None])]
    assert not matrices(table(*rows))[0].converged.loc[0, 0]
    assert matrices(table(rows[0], rows[2]))[0].converged.loc[0, 0] is pd.NA


def test_one_matrix_per_pair_and_factor_combination_with_the_layers_of_its_pair() -> None:
    results = table(
        trial(0, 0, **{"factor.loss": "task", "factor.stitch.rank": 2}),
        trial(1, 2, **{"factor.loss": "task", "factor.stitch.rank": 2}),
        trial(0, 0, **{"factor.loss": "mse", "factor.stitch.rank": None}),
        trial(0, 0, receiver="a", **{"factor.loss": "mse", "factor.stitch.rank": 2}),
    )
    found = matrices(results)
    assert [(m.receiver, m.kind) for m in found] == [
        ("a", "self-pair"),
        ("b", "pair"),
        ("b", "pair"),
    ]
    assert found[1].factors == {"loss": "mse", "stitch.rank": None}
    assert found[2].factors == {"loss": "task", "stitch.rank": 2}
    assert found[1].values.shape == found[2].values.shape == (2, 2)
    assert int(found[1].missing.sum().sum()) == 3
    assert "self-pair" in found[0].title
    assert "loss = mse" in found[0].title


def test_file_names_are_safe_and_distinct() -> None:
    values = pd.DataFrame([[0.5]])
    names = ["a", "b", "a__b", "a_", "_a", "a/b", "a-b", "a b", "../up", "..", "", "é", "x" * 300]
    factors: list[dict[str, Any]] = [
        {},
        {"loss": "task"},
        {"loss": "task+0.5*mse"},
        {"loss": "task-0.5-mse"},
        {"k": 1},
        {"k": 1.0},
        {"k": "1"},
        {"k": None},
        {"k": "none"},
        {"k": "1", "l": "2"},
        {"k": "1__l-2"},
        {"value": "penalty"},
    ]
    found = [
        Matrix.bare(values, s, r, factors=f, value_name=v).file_name
        for s, r, f, v in itertools.product(
            names, names, factors, ["test_accuracy", "val_accuracy", "penalty"]
        )
    ]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name) for name in found)
    assert max(map(len, found)) < 200
    assert Matrix.bare(values, "a", "b-random", factors={"loss": "task"}).file_name == (
        "a__b-random__loss-task"
    )
