"""Tables of trials, and matrices of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from stitch_sweep.analysis.matrix.matrices import matrices
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.results import check_results


def trial(i: int = 0, j: int = 0, test: float = 0.5, **other: Any) -> dict[str, Any]:
    row = {
        "trial": "t",
        "sender": "a",
        "receiver": "b",
        "sender_layer": i,
        "receiver_layer": j,
        "repeat": 0,
        "number": 0,
        "stitch": "paper",
        "loss": "task",
        "val_accuracy": test,
        "test_accuracy": test,
        "train_accuracy": test,
        "test_loss": 1.0 - test,
        "penalty": 0.9 - test,
        "converged": True,
        "sender_accuracy": 0.8,
        "receiver_accuracy": 0.9,
        "status": "finished",
        "seconds": 1.0,
        "metric": test,
    }
    return row | other


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return check_results(pd.DataFrame(list(rows)))


def failed(i: int, j: int, **other: Any) -> dict[str, Any]:
    return trial(i, j, math.nan, status="failed", converged=None, **other)


def full(rows: int, columns: int, **other: Any) -> Matrix:
    values = np.random.default_rng(0).uniform(size=(rows, columns))
    layers = itertools.product(range(rows), range(columns))
    return matrices(table(*(trial(i, j, values[i, j], **other) for i, j in layers)))[0]


def awkward() -> Matrix:
    """Layers 0, 2, 10 by -1, 0: one failed, one missing, one unconverged, one unknown cell."""
    return matrices(
        table(
            trial(10, -1, 0.25, converged=False),
            trial(10, 0, 1 / 3, converged=None),
            trial(2, 0, 0.75),
            trial(2, -1, 0.125),
            failed(0, 0),
        )
    )[0]
