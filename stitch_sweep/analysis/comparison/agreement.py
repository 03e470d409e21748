"""Compare the decisions of a stitched network with those of its sender and its receiver."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from stitch_sweep.analysis.comparison.losses import identity_columns, loss_table
from stitch_sweep.analysis.results import CELL, PAIR, Mode
from stitch_sweep.core.errors import InputError


def error_consistency(first: np.ndarray, second: np.ndarray) -> float:
    """Compute Cohen's kappa of two classifiers' correctness.

    It measures whether they fail on the same images:

        kappa = (c - c_0) / (1 - c_0),   c_0 = p q + (1 - p)(1 - q)

    with c the share of images that both get right or both get wrong, and p and q the two accuracies.
    c_0 is the expected share for two classifiers of these accuracies that fail independently. 1: they
    fail on the same images; 0: they agree as much as by chance; below 0: less. NaN where c_0 is 1, which
    happens where both are always right or both are always wrong.

    Source: Geirhos, Meding and Wichmann 2020 (arXiv 2006.16736).

    Args:
        first: bool, shape (N,): which images the first classifier gets right.
        second: bool, shape (N,): which images the second classifier gets right.

    Raises:
        ValueError: there are no images, or the shapes differ.

    Example:
        >>> error_consistency(np.array([True, False, True]), np.array([True, False, True]))
        1.0
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"shapes {first.shape} and {second.shape}: both must be (N,), with N >= 1")
    # Whole numbers: with rounding, 1 - c_0 would be slightly above 0 where it is 0.
    count, a, b = len(first), int(first.sum()), int(second.sum())
    chance = a * b + (count - a) * (count - b)
    if chance == count * count:
        return math.nan
    equal_count = int((first == second).sum())
    return (equal_count * count - chance) / (count * count - chance)


def agreement(
    results: pd.DataFrame,
    predictions: pd.DataFrame,
    labels: pd.DataFrame,
    networks: pd.DataFrame,
    *,
    metric: str = "val_accuracy",
    mode: Mode = "max",
) -> pd.DataFrame:
    """Compare, per cell, the stitched network's decisions with its sender's and its receiver's.

    *Agreement* is the share of test images for which two networks name the same class, right or wrong.
    Two good classifiers agree because both are right. *Error consistency* therefore measures whether
    they fail on the same images beyond what their accuracies make likely: see `error_consistency`. The
    table also compares sender and receiver with each other: a stitched network can resemble both only
    as far as they resemble each other.

    Predictions are those of the stitched network as it was trained, without calibration. Where a loss
    is blind to scale or rotation (`accuracy_raw` and `accuracy_calibrated` differ), they depend on the
    arbitrary scale or rotation more than on the representation.

    Args:
        results: a row per trial, as `load_results` returns it.
        predictions: columns `trial` and `predictions` (the class of every test image).
        labels: column `label`, a row per test image.
        networks: columns `network` and `predictions`; missing predictions are allowed.
        metric: the column that chooses trials.
        mode: whether its "max" or its "min" is best.

    Returns:
        A row per finished best trial of a cell and loss: its identity, `trial`, `accuracy_raw`,
        `accuracy_calibrated`, `images` (N), and the columns of `measures.AGREEMENTS`:
        `agreement_<partner>` and `kappa_<partner>`, where `<partner>` is `sender`, `receiver`, or `own`
        for sender and receiver with each other. NaN where a network's predictions are missing, or
        where kappa is undefined.

    Raises:
        InputError: a column is missing, or predictions and labels aren't of the same images.
    """
    for name, table, required in (
        ("predictions", predictions, ["trial", "predictions"]),
        ("labels", labels, ["label"]),
        ("networks", networks, ["network", "predictions"]),
    ):
        if missing := [column for column in required if column not in table.columns]:
            raise InputError(f"{name}: missing columns: {', '.join(missing)}")
    classes = labels["label"].to_numpy()
    original = _predictions_by_name(networks, "network", classes)
    stitched = _predictions_by_name(predictions, "trial", classes)
    table = loss_table(results, metric=metric, mode=mode)
    table = table[(table["status"] == "finished") & table["trial"].isin(list(stitched))]
    identity = [*PAIR, *identity_columns(table), *CELL, "repeat", "loss"]
    shown_columns = [*identity, "trial", "accuracy_raw", "accuracy_calibrated"]
    rows = [
        _compare(
            stitched[row["trial"]],
            original.get(row["sender"]),
            original.get(row["receiver"]),
            classes,
        )
        for row in table.to_dict("records")
    ]
    compared = pd.DataFrame(rows, columns=_COLUMNS, index=table.index)
    return table[shown_columns].join(compared).reset_index(drop=True)


_COLUMNS = [
    "images",
    *(
        f"{kind}_{partner}"
        for partner in ("sender", "receiver", "own")
        for kind in ("agreement", "kappa")
    ),
]


def _compare(
    stitched: np.ndarray,
    sender: np.ndarray | None,
    receiver: np.ndarray | None,
    labels: np.ndarray,
) -> dict[str, Any]:
    """Compute agreement and error consistency of the three pairs of networks."""
    row: dict[str, Any] = {"images": len(labels)}
    pairs = {
        "sender": (stitched, sender),
        "receiver": (stitched, receiver),
        "own": (sender, receiver),
    }
    for name, (first, second) in pairs.items():
        if first is None or second is None:
            agreeing, kappa = math.nan, math.nan
        else:
            agreeing = float(np.mean(first == second))
            kappa = error_consistency(np.equal(first, labels), np.equal(second, labels))
        row |= {f"agreement_{name}": agreeing, f"kappa_{name}": kappa}
    return row


def _predictions_by_name(
    table: pd.DataFrame, key: str, labels: np.ndarray
) -> Mapping[str, np.ndarray]:
    """Map each network or trial that has predictions to them, checked against the labels."""
    predictions_by_name = {}
    for name, values in zip(table[key], table["predictions"], strict=True):
        if values is None or np.ndim(values) == 0:  # a missing value
            continue
        classes = np.asarray(values)
        if len(classes) != len(labels):
            raise InputError(
                f"{key} {name}: has predictions of {len(classes)} images, but there are {len(labels)} "
                "labels; give predictions and labels of the same test set"
            )
        predictions_by_name[str(name)] = classes
    return predictions_by_name
