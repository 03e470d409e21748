"""Matrices and tables of sweeps of a known shape."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.order_parameters import regions
from stitch_sweep.analysis.matrix.sweep_verdicts import verdicts
from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.analysis.results import check_results

TRIANGLE = {"lower": 0.9, "band": 0.9, "upper": 0.3}


FULL = {"lower": 0.9, "band": 0.9, "upper": 0.9}


NOTHING = {"lower": 0.1, "band": 0.1, "upper": 0.1}


DIAGONAL = {"lower": 0.3, "band": 0.9, "upper": 0.3}


def step(levels: dict[str, float], rows: int = 5, columns: int = 5) -> pd.DataFrame:
    """A matrix with one accuracy per region."""
    where = regions(pd.DataFrame(index=range(rows), columns=range(columns)))
    return where.map(levels.__getitem__).astype("float64")


def bare(values: pd.DataFrame, sender: str = "a", receiver: str = "b", own: float = 0.9) -> Matrix:
    return Matrix.bare(values, sender, receiver, sender_accuracy=own, receiver_accuracy=own)


def noise(rows: int, columns: int, seed: int, size: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(seed).normal(0, size, (rows, columns)))


def planted(seed: int, cells: int, images: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (cells, images)).astype(np.float32)


def ordered_pairs(names: str) -> list[tuple[str, str]]:
    return list(itertools.permutations(names, 2))


class SweepTables:
    """Tables of a sweep in which every trial's predictions have the accuracy it reports."""

    def __init__(self, images: int = 400) -> None:
        self.truth = np.arange(images) % 10
        self.rows: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.networks: list[dict[str, Any]] = []

    def predicted(self, accuracy: float) -> list[int]:
        wrong = np.arange(len(self.truth)) >= round(accuracy * len(self.truth))
        return ((self.truth + wrong) % 10).tolist()

    def network(self, name: str, accuracy: float = 0.9, **other: Any) -> None:
        self.networks.append(
            {
                "network": name,
                "family": "resnet",
                "options": '{"blocks": [1, 1, 1, 1]}',
                "weights": "trained",
                "depth": 4,
                "classes": 10,
                "test_accuracy": accuracy,
                "predictions": self.predicted(accuracy),
                **other,
            }
        )

    def matrix(
        self, sender: str, receiver: str, values: pd.DataFrame, repeat: int = 0, **other: Any
    ) -> None:
        for (i, j), value in values.stack().items():
            trial = f"t{len(self.rows)}"
            self.rows.append(
                {
                    "trial": trial,
                    "sender": sender,
                    "receiver": receiver,
                    "sender_layer": i,
                    "receiver_layer": j,
                    "repeat": repeat,
                    "number": 0,
                    "status": "failed" if math.isnan(value) else "finished",
                    "val_accuracy": value,
                    "test_accuracy": value,
                    "accuracy_calibrated": value,
                    "penalty": 0.9 - value,
                    "converged": None if math.isnan(value) else True,
                    "sender_accuracy": 0.9,
                    "receiver_accuracy": 0.9,
                    "sender_kind": "trained",
                    "receiver_kind": "trained",
                    **other,
                }
            )
            if not math.isnan(value):
                self.predictions.append({"trial": trial, "predictions": self.predicted(value)})

    @property
    def results(self) -> pd.DataFrame:
        return check_results(pd.DataFrame(self.rows))

    def judge(self, **other: Any) -> dict[tuple[str, str], Verdict]:
        given = {
            "predictions": pd.DataFrame(self.predictions),
            "labels": pd.DataFrame({"label": self.truth}),
            "networks": pd.DataFrame(self.networks) if self.networks else None,
            "resamples": 200,
            **other,
        }
        found = verdicts(self.results, **given)
        return {(v.matrix.sender, v.matrix.receiver): v for v in found}


def planned_cells(sender: str, receiver: str, layers: range | list[int]) -> pd.DataFrame:
    return pd.DataFrame(
        [(sender, receiver, i, j) for i, j in itertools.product(layers, layers)],
        columns=["sender", "receiver", "sender_layer", "receiver_layer"],
    )
