"""How alike a stitched network decides to its sender and to its receiver."""

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
    """Cohen's kappa of two classifiers' correctness: whether they fail on the same images.

        kappa = (c - c_0) / (1 - c_0),   c_0 = p q + (1 - p)(1 - q)

    with c the share of images that both get right or both get wrong, and p and q the two accuracies:
    c_0 is what two classifiers of these accuracies share that fail independently. 1: the very same
    images; 0: as many as by chance; below 0: fewer. NaN where c_0 is 1, that is where both are always
    right or both always wrong. Geirhos, Meding and Wichmann 2020 (arXiv 2006.16736).

    Args:
        first: bool [N], which images the one gets right.
        second: bool [N], likewise of the other.

    Raises:
        ValueError: there are no images, or not as many in both.

    Example:
        >>> error_consistency(np.array([True, False, True]), np.array([True, False, True]))
        1.0
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"shapes {first.shape} and {second.shape}: two of [N], N >= 1, are wanted")
    # In whole numbers: rounding would make 1 - c_0 a little more than 0 where it is 0.
    count, a, b = len(first), int(first.sum()), int(second.sum())
    chance = a * b + (count - a) * (count - b)
    if chance == count * count:
        return math.nan
    same = int((first == second).sum())
    return (same * count - chance) / (count * count - chance)


def agreement(
    results: pd.DataFrame,
    predictions: pd.DataFrame,
    labels: pd.DataFrame,
    networks: pd.DataFrame,
    *,
    metric: str = "val_accuracy",
    mode: Mode = "max",
) -> pd.DataFrame:
    """Per cell, how alike the stitched network decides to its sender and to its receiver.

    *Agreement* is the share of test images for which two networks name the same class, right or wrong.
    Two good classifiers agree because both are right, so *error consistency* asks whether they fail on
    the same images beyond what their accuracies make likely: see `error_consistency`. The sender's and
    receiver's own likeness is given beside, because a stitched network can be like both only as far as
    they are like each other.

    Predictions are those of the stitched network as it was trained. Where a loss is blind to scale or
    rotation (`accuracy_raw` and `accuracy_calibrated` differ) they say more of what it left to chance
    than of the representation.

    Args:
        results: a row per trial, as `load_results` returns it.
        predictions: columns `trial` and `predictions` (the class of every test image).
        labels: column `label`, a row per test image.
        networks: columns `network` and `predictions`; missing predictions are allowed.
        metric: the column that chooses trials.
        mode: whether "max" or "min" of it is best.

    Returns:
        A row per finished best trial of a cell and loss: its identity, `trial`, `accuracy_raw`,
        `accuracy_calibrated`, `images` (N), and `agreement_<with>` and `kappa_<with>`, `<with>` being
        `sender`, `receiver`, and `own` for those two with each other. NaN where a network's predictions
        are missing, or where kappa is not defined.

    Raises:
        InputError: a column is missing, or predictions and labels aren't of the same images.
    """
    for name, table, wanted in (
        ("predictions", predictions, ["trial", "predictions"]),
        ("labels", labels, ["label"]),
        ("networks", networks, ["network", "predictions"]),
    ):
        if missing := [column for column in wanted if column not in table.columns]:
            raise InputError(f"{name}: missing columns: {', '.join(missing)}")
    right = labels["label"].to_numpy()
    own = _by_name(networks, "network", right, "network")
    stitched = _by_name(predictions, "trial", right, "trial")
    table = loss_table(results, metric=metric, mode=mode)
    table = table[(table["status"] == "finished") & table["trial"].isin(list(stitched))]
    identity = [*PAIR, *identity_columns(table), *CELL, "repeat", "loss"]
    kept = [*identity, "trial", "accuracy_raw", "accuracy_calibrated"]
    rows = [
        _compare(stitched[row["trial"]], own.get(row["sender"]), own.get(row["receiver"]), right)
        for row in table.to_dict("records")
    ]
    found = pd.DataFrame(rows, columns=_COLUMNS, index=table.index)
    return table[kept].join(found).reset_index(drop=True)


_COLUMNS = [
    "images",
    *(f"{kind}_{other}" for other in ("sender", "receiver", "own") for kind in ("agreement", "kappa")),
]  # fmt: skip


def _compare(
    stitched: np.ndarray,
    sender: np.ndarray | None,
    receiver: np.ndarray | None,
    labels: np.ndarray,
) -> dict[str, Any]:
    found: dict[str, Any] = {"images": len(labels)}
    pairs = {
        "sender": (stitched, sender),
        "receiver": (stitched, receiver),
        "own": (sender, receiver),
    }
    for name, (first, second) in pairs.items():
        if first is None or second is None:
            alike, kappa = math.nan, math.nan
        else:
            alike = float(np.mean(first == second))
            kappa = error_consistency(np.equal(first, labels), np.equal(second, labels))
        found |= {f"agreement_{name}": alike, f"kappa_{name}": kappa}
    return found


def _by_name(
    table: pd.DataFrame, key: str, labels: np.ndarray, what: str
) -> Mapping[str, np.ndarray]:
    found = {}
    for name, values in zip(table[key], table["predictions"], strict=True):
        if values is None or np.ndim(values) == 0:  # no predictions: a missing value
            continue
        classes = np.asarray(values)
        if len(classes) != len(labels):
            raise InputError(
                f"{what} {name}: has predictions of {len(classes)} images, there are labels of "
                f"{len(labels)}; they are not of the same test set"
            )
        found[str(name)] = classes
    return found
