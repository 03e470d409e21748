"""The evidence for a sweep's matrices beside its results: labels, predictions, numbers of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from stitch_sweep.analysis.matrix.judging import Correct
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.notes import listed
from stitch_sweep.analysis.networks import is_missing, layer_counts
from stitch_sweep.analysis.results import CELL, PAIR
from stitch_sweep.core.errors import InputError


def chance_level(
    chance: float | None, labels: pd.DataFrame | ArrayLike | None, networks: pd.DataFrame | None
) -> float:
    """Return the accuracy of guessing: as given, or 1 / number of classes.

    Raises:
        InputError: it is unknown, or the networks have different numbers of classes.
    """
    if chance is not None:
        return chance
    if networks is not None and "classes" in networks.columns:
        classes = {int(k) for k in networks["classes"].dropna()}
        if len(classes) > 1:
            raise InputError(
                f"networks of {listed([str(k) for k in sorted(classes)])} classes have no chance "
                "level in common; set the accuracy of guessing"
            )
        if classes:
            return 1 / classes.pop()
    if labels is not None:
        return 1 / len(np.unique(read_labels(labels)))
    raise InputError("chance: unknown without the test images' labels or the networks; set it")


def read_labels(labels: pd.DataFrame | ArrayLike) -> NDArray[np.int64]:
    """Return the classes of the test images from an array or a table with a column `label`."""
    if isinstance(labels, pd.DataFrame):
        if "label" not in labels.columns:
            raise InputError("labels: there is no column 'label'")
        labels = labels["label"].to_numpy()
    return np.asarray(labels, dtype=np.int64)


class Evidence:
    """Predictions, labels and networks of a sweep.

    Args:
        best: the best trial of every study.
        predictions: columns `trial` and `predictions` (the class predicted for every test image).
        truth: shape (N,), the test images' classes.
        networks: a row per network; see `verdicts`.
        planned: a row per planned cell of the sweep; see `verdicts`.

    Attributes:
        layers: network -> number of layers from 0 on.
        test_images: number of test images, None if unknown.
    """

    def __init__(
        self,
        best: pd.DataFrame,
        predictions: pd.DataFrame | None,
        truth: NDArray[np.int64] | None,
        networks: pd.DataFrame | None,
        planned: pd.DataFrame | None = None,
    ) -> None:
        self._truth = truth
        self._predictions: Mapping[str, Any] = {}
        if predictions is not None:
            missing = [k for k in ("trial", "predictions") if k not in predictions.columns]
            if missing:
                raise InputError(f"predictions: there is no column {listed(missing)}")
            self._predictions = dict(
                zip(predictions["trial"], predictions["predictions"], strict=True)
            )
        self._network_correct: dict[str, NDArray[np.float32] | None] = {}
        self.layers: dict[str, int] = {}
        for role in PAIR:
            cells = best if planned is None else pd.concat([best[[*PAIR, *CELL]], planned])
            for name, layers in cells.groupby(role)[f"{role}_layer"]:
                self.layers[str(name)] = max(self.layers.get(str(name), 0), int(layers.max()) + 1)
        if networks is not None:
            self.layers |= layer_counts(networks)
            for row in networks.to_dict("records") if truth is not None else []:
                if not is_missing(row.get("predictions")):
                    name = str(row["network"])
                    self._network_correct[name] = self._compare(
                        row["predictions"], f"network {name}"
                    )
        first = next(iter(self._predictions.values()), None)
        if truth is not None:
            self.test_images: int | None = len(truth)
        else:
            self.test_images = None if first is None else len(first)

    def _compare(self, predicted: Any, source: str) -> NDArray[np.float32]:
        """Compare predictions with the labels: 1 where right, else 0."""
        assert self._truth is not None
        if len(predicted) != len(self._truth):
            raise InputError(
                f"{source}: predictions of {len(predicted)} test images, but there are "
                f"{len(self._truth)} labels"
            )
        return (np.asarray(predicted) == self._truth).astype(np.float32)

    def correct(self, matrix: Matrix, best: pd.DataFrame) -> tuple[Correct | None, list[str]]:
        """Return which test images the matrix's cells get right; None, with a note, if unknown.

        Args:
            matrix: the matrix.
            best: its best trials.

        Raises:
            InputError: accuracies and predictions differ.
        """
        if self._truth is None or not self._predictions:
            return None, []
        finished = best[(best["status"] == "finished") & best[matrix.value_name].notna()]
        if not finished["trial"].isin(list(self._predictions)).all():
            return None, [
                "not every cell's predictions are stored, so test images can't be resampled"
            ]
        cells = np.full((*matrix.values.shape, len(self._truth)), np.nan, dtype=np.float32)
        for (i, j), trials in finished.groupby(["sender_layer", "receiver_layer"]):
            repeats = [self._compare(self._predictions[t], f"trial {t}") for t in trials["trial"]]
            position = matrix.values.index.get_loc(i), matrix.values.columns.get_loc(j)
            cells[position] = np.mean(repeats, axis=0)
        # Predictions are those of the stitch as trained. They don't belong to a calibrated accuracy,
        # unless the loss leaves nothing to calibrate.
        difference = np.nanmax(np.abs(cells.mean(axis=-1) - matrix.values.to_numpy()), initial=0.0)
        if difference > 1e-4:
            if matrix.value_name == "test_accuracy":
                raise InputError(
                    f"{matrix.title}: test accuracies and predictions differ by up to "
                    f"{difference:.3g}; do labels, predictions and results belong to one sweep?"
                )
            return None, [
                f"predictions are stored for the raw accuracy and not for the {matrix.value_label}, "
                "so test images can't be resampled"
            ]
        flat = cells.reshape(-1, len(self._truth))
        return Correct(flat, self._network_correct.get(_better_network(matrix))), []


def _better_network(matrix: Matrix) -> str:
    """Return the name of the network with the higher own accuracy."""
    sender, receiver = matrix.sender_accuracy, matrix.receiver_accuracy
    return matrix.sender if math.isnan(receiver) or sender >= receiver else matrix.receiver
