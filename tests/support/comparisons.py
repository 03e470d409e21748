"""Tables of trials with every similarity measure."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from stitch_sweep.analysis.results import check_results

ALIKE = {
    "val_mse": 0.2, "val_relative_mse": 0.4, "val_cosine": 0.9, "val_correlation": 0.9,
    "val_cca": 0.8, "val_svcca": 0.8, "val_pwcca": 0.7, "val_cka": 0.95, "val_procrustes": 0.1,
    "val_jaccard_knn": 0.4, "val_second_order_cosine": 0.9, "val_knn_agreement": 0.5,
}  # fmt: skip


def trial(i: int = 0, j: int = 0, loss: str = "task", accuracy: float = 0.8, **other: Any) -> dict:
    row = {
        "trial": f"{i}-{j}-{loss}-{other.get('number', 0)}-{other.get('repeat', 0)}",
        "sender": "a",
        "receiver": "b",
        "sender_layer": i,
        "receiver_layer": j,
        "repeat": 0,
        "number": 0,
        "loss": loss,
        "factor.loss": loss,
        "status": "finished",
        "val_accuracy": accuracy,
        "test_accuracy": accuracy,
        "accuracy_raw": accuracy,
        "accuracy_calibrated": accuracy,
        "penalty": 0.9 - accuracy,
        "converged": True,
        "sender_accuracy": 0.8,
        "receiver_accuracy": 0.9,
        **ALIKE,
    }
    return row | other


def failed(i: int = 0, j: int = 0, loss: str = "task", **other: Any) -> dict:
    empty = dict.fromkeys([*ALIKE, "accuracy_raw", "accuracy_calibrated", "val_accuracy"])
    return trial(i, j, loss, math.nan, status="failed", converged=None, **empty, **other)


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return check_results(pd.DataFrame(list(rows)))
