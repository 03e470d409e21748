"""The verdict on a matrix: its label, how sure that is, and whether a control does the same.

Example:
    >>> for verdict in verdicts(load_results(folder), labels=labels):  # doctest: +SKIP
    ...     print(verdict.matrix.title, verdict.headline)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from stitch_sweep.analysis.matrix.matrices import Matrix, best_by_matrix, matrices
from stitch_sweep.analysis.matrix.order import (
    REACHED,
    REGIONS,
    THRESHOLDS,
    OrderParameters,
    Thresholds,
    order_parameters,
    reach,
    region_means,
    regions,
    rescaled,
)
from stitch_sweep.analysis.matrix.quality import (
    Withheld,
    check_accuracies,
    layer_notes,
    listed,
    quality,
    scale_notes,
    shape_notes,
)
from stitch_sweep.analysis.matrix.uncertainty import (
    BINOMIAL,
    IMAGES,
    Interval,
    Resamples,
    resample_counts,
    resample_images,
    row_and_column_test,
)
from stitch_sweep.analysis.networks import architectures, is_missing, layer_counts
from stitch_sweep.analysis.results import CELL, PAIR, Mode, best_trials
from stitch_sweep.core.errors import InputError, nearest

CONTROLS = {
    "class_only": "class-only sender",
    "untrained_sender": "untrained sender",
    "untrained_receiver": "untrained receiver",
    "untrained_both": "untrained sender and receiver",
    "image": "image as sender",
}
"""Kinds of controls, in words. Each explains a pair's shape by its own rule; see `explained_by`."""

_SUFFICES = {
    "class_only": "class information suffices for it, and nothing more is shown",
    "untrained_sender": "what stitch and receiver make of untrained features suffices for it",
    "untrained_receiver": "what the stitch makes of the sender suffices for it",
    "untrained_both": "what the stitch learns by itself suffices for it",
    "image": "what stitch and receiver make of the image suffices for it",
}
_SHAPED = {
    "triangle": "shaped like a triangle",
    "diagonal": "shaped like a diagonal",
    "full": "performs everywhere",
    "none": "performs nowhere",
    "upper": "shaped like an upper triangle",
    "gradient": "shaped like a gradient",
    "unclear": "of unclear shape",
}
_UNTRAINED = ("random", "random_raw")
# What the configuration's `controls` adds to a network's name.
_VARIANTS = ("-untrained", "-class-only")


@dataclass(frozen=True, eq=False)
class Verdict:
    """What one matrix shows.

    Attributes:
        matrix: the matrix.
        chance: what guessing reaches.
        best_accuracy: the better of the networks' own accuracies, NaN if both are unknown.
        label: one of `LABELS`; `unclear` too where too many cells are missing, failed or
            unconverged. For a control it is a shape, never a finding: show `headline`.
        parameters: the region means and indices.
        intervals: of "triangle", "diagonal" and "order"; empty where nothing is known to resample.
        label_shares: label by the thresholds alone -> share of resamples; empty likewise.
        p_value: of the null hypothesis that there are only row and column effects; None where too
            few cells are there to tell.
        reach: sender layer -> farthest receiver layer it reaches, NA where none; layers without a
            value are left out. See `order.reach`.
        control: a key of `CONTROLS`, None for a pair that is no control.
        withheld: why the label was taken back: "gaps" (too few cells have a value) or "unconverged";
            None if it was not.
        explained_by: the kinds of controls that do what this pair does; empty for `none` and
            `unclear`, where there is nothing to explain.
        notes: sentences a reader needs beside the label.
    """

    matrix: Matrix
    chance: float
    best_accuracy: float
    label: str
    parameters: OrderParameters
    intervals: dict[str, Interval] = field(default_factory=dict)
    label_shares: dict[str, float] = field(default_factory=dict)
    p_value: float | None = None
    reach: pd.Series = field(default_factory=lambda: pd.Series(dtype="Int64"))
    control: str | None = None
    withheld: Withheld | None = None
    explained_by: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether the values are enough to judge by: the label was not taken back."""
        return self.withheld is None

    @property
    def headline(self) -> str:
        """The label as it is to be shown: a control has a shape, and never a triangle's label."""
        if self.control is None:
            return self.label
        return f"control ({CONTROLS[self.control]}), {self.shaped}"

    @property
    def shaped(self) -> str:
        """The label as a control's is said: "shaped like a triangle" claims no triangle."""
        return _SHAPED[self.label]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, None where undefined; `label` is the headline, `shape` the label."""
        numbers = ("lower", "band", "upper", "triangle", "diagonal", "order")
        return {
            "sender": self.matrix.sender,
            "receiver": self.matrix.receiver,
            "kind": self.matrix.kind,
            "factors": self.matrix.factors,
            "value": self.matrix.value_name,
            "label": self.headline,
            "shape": self.label,
            **{name: _finite(getattr(self.parameters, name)) for name in numbers},
            "cells": self.parameters.cells,
            "intervals": {
                name: {
                    "low": _finite(interval.low),
                    "high": _finite(interval.high),
                    "level": interval.level,
                    "method": interval.method,
                }
                for name, interval in self.intervals.items()
            },
            "label_shares": self.label_shares,
            "p_value": self.p_value,
            "reach": {
                str(layer): None if pd.isna(farthest) else int(farthest)
                for layer, farthest in self.reach.items()
            },
            "chance": self.chance,
            "best_accuracy": _finite(self.best_accuracy),
            "control": self.control,
            "sound": self.sound,
            "withheld": self.withheld,
            "explained_by": list(self.explained_by),
            "notes": list(self.notes),
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True, eq=False)
class Correct:
    """Which test images each cell has right, and the better of the two networks by itself.

    Attributes:
        cells: shape (I J, N), a matrix's cells row by row: 1 where right, else 0, or the share of
            repeats that are; NaN in all images of a cell without a value.
        better: shape (N,), for the network with the higher accuracy of its own, None if unknown.
    """

    cells: NDArray[np.float32]
    better: NDArray[np.float32] | None = None


def judge(
    matrix: Matrix,
    *,
    chance: float,
    correct: Correct | None = None,
    test_images: int | None = None,
    sender_layers: int | None = None,
    receiver_layers: int | None = None,
    control: str | None = None,
    thresholds: Thresholds = THRESHOLDS,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Verdict:
    """Judge one matrix.

    Args:
        matrix: accuracies, shape (I, J).
        chance: what guessing reaches.
        correct: what every cell has right: for a paired bootstrap over test images.
        test_images: how many test images the accuracies are of: without `correct`, for binomial
            measurement error. With neither there are no intervals.
        sender_layers: how many layers from 0 on the whole sender has; None: as many as the matrix
            shows.
        receiver_layers: the same of the receiver.
        control: a key of `CONTROLS` if the matrix is one.
        thresholds: where labels end.
        resamples: how often to resample.
        level: of the intervals.
        seed: of the resampling.

    Raises:
        InputError: chance or an accuracy outside [0, 1], a layer beyond its network, no test images,
            or predictions of another shape than the matrix.
    """
    where = regions(matrix.values, sender_layers=sender_layers, receiver_layers=receiver_layers)
    check_accuracies(matrix, chance, test_images)
    own = np.array([matrix.sender_accuracy, matrix.receiver_accuracy])
    best = float(np.fmax.reduce(own))
    values = rescaled(matrix.values, chance, best)
    parameters = order_parameters(values, where)
    notes = scale_notes(best, chance)
    label, withheld, remarks = quality(matrix, where, parameters.label(thresholds))
    notes += remarks
    notes += layer_notes(matrix, sender_layers, receiver_layers)
    drawn = _resample(matrix, chance, where, correct, test_images, resamples, seed)
    if drawn is not None:
        sampled, remarks = drawn
        notes += remarks
    p_value = row_and_column_test(values, where)
    notes += shape_notes(label, p_value)
    return Verdict(
        matrix=matrix,
        chance=chance,
        best_accuracy=best,
        label=label,
        parameters=parameters,
        intervals={} if drawn is None else sampled.intervals(level),
        label_shares={} if drawn is None else sampled.label_shares(thresholds),
        p_value=p_value,
        reach=reach(values),
        control=control,
        withheld=withheld,
        notes=notes,
    )


def judge_bare(
    values: pd.DataFrame,
    *,
    sender_accuracy: float,
    receiver_accuracy: float,
    test_images: int | None,
    chance: float = 0.1,
    sender: str = "sender",
    receiver: str = "receiver",
    sender_layers: int | None = None,
    receiver_layers: int | None = None,
    control: str | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge a matrix of which only the values are known, such as a published one.

    Its intervals are binomial measurement error: neither networks nor trainings are in them.

    Args:
        values: accuracies in [0, 1], shape (I, J), as `read_matrix` returns them.
        sender_accuracy: the sender's own test accuracy, NaN if unknown; one of the two is needed.
        receiver_accuracy: the receiver's own.
        test_images: how many images the accuracies are of, None if unknown (no intervals then).
        chance: what guessing reaches.
        sender: the sender's name.
        receiver: the receiver's name; the sender's for a network stitched to itself.
        sender_layers: how many layers from 0 on the whole sender has; None: as many as there are
            rows from 0 on.
        receiver_layers: the same of the receiver.
        control: a key of `CONTROLS` if the matrix is one, so that it is shown as no finding.
        seed: of the resampling.

    Raises:
        InputError: as `judge`; no such control; or both accuracies are unknown.

    Example:
        >>> values = pd.DataFrame([[0.9, 0.4], [0.9, 0.9]])
        >>> judge_bare(values, sender_accuracy=0.9, receiver_accuracy=0.9, test_images=1000).label
        'triangle'
    """
    if control is not None and control not in CONTROLS:
        raise InputError(f"control {control!r}: {nearest(str(control), list(CONTROLS))}")
    if math.isnan(sender_accuracy) and math.isnan(receiver_accuracy):
        raise InputError(
            "at least one of the two networks' own accuracies is needed: without them a low matrix "
            "of good networks can't be told from a high one of poor networks"
        )
    matrix = Matrix.bare(
        values,
        sender,
        receiver,
        sender_accuracy=sender_accuracy,
        receiver_accuracy=receiver_accuracy,
    )
    return judge(
        matrix,
        chance=chance,
        test_images=test_images,
        sender_layers=sender_layers,
        receiver_layers=receiver_layers,
        control=control,
        seed=seed,
    )


def _resample(
    matrix: Matrix,
    chance: float,
    where: pd.DataFrame,
    correct: Correct | None,
    test_images: int | None,
    resamples: int,
    seed: int,
) -> tuple[Resamples, list[str]] | None:
    values = matrix.values.to_numpy(dtype=np.float64).ravel()
    best = float(np.fmax(matrix.sender_accuracy, matrix.receiver_accuracy))
    # Which network is the better one is settled once: the larger of two noisy accuracies, taken anew
    # in every resample, would be too high.
    notes = []
    if correct is not None:
        if len(correct.cells) != values.size:
            raise InputError(
                f"predictions of {len(correct.cells)} cells for a matrix of {values.size} cells"
            )
        rows = [correct.cells]
        if correct.better is not None:
            rows.append(np.asarray(correct.better, dtype=np.float32)[None])
        elif not math.isnan(best):
            notes.append(
                "what the better network predicts without a stitch is not known, so its accuracy is "
                "held fixed in the intervals"
            )
        sampled, method = resample_images(np.concatenate(rows), resamples, seed), IMAGES
    elif test_images is not None:
        sampled = resample_counts(np.append(values, best), test_images, resamples, seed)
        method = BINOMIAL
        notes.append(
            f"intervals are measurement error on {test_images} test images only: other networks or "
            "another training are not in them"
        )
    else:
        return None
    scale = sampled[:, values.size] if sampled.shape[1] > values.size else np.full(resamples, best)
    means = region_means(
        sampled[:, : values.size], scale, chance, where.to_numpy(dtype=object).ravel()
    )
    return Resamples(means, method), notes


def verdicts(
    results: pd.DataFrame,
    *,
    predictions: pd.DataFrame | None = None,
    labels: pd.DataFrame | ArrayLike | None = None,
    networks: pd.DataFrame | None = None,
    planned: pd.DataFrame | None = None,
    probes: pd.DataFrame | None = None,
    chance: float | None = None,
    value: str | None = None,
    metric: str = "val_accuracy",
    mode: Mode = "max",
    thresholds: Thresholds = THRESHOLDS,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Verdict]:
    """Judge every matrix of a sweep, and say which pairs a control explains.

    Args:
        results: a row per trial, as `load_results` returns it.
        predictions: columns `trial` and `predictions` (the class predicted for every test image).
        labels: the test images' classes, or a table with a column `label`.
        networks: a row per network, as measured: `network`, `family`, `options`, `depth`,
            `classes`, `predictions`, `weights`. Without it own accuracies are held
            fixed in the intervals, and layers are counted from the results. `weights` tells
            untrained networks where `results` has no `sender_kind` and `receiver_kind`.
        planned: a row per cell that the sweep was to run, with `sender`, `receiver`,
            `sender_layer` and `receiver_layer`: layers of it that no trial of a pair has reached
            yet are missing from its matrices. None: a pair's layers are those of its trials.
        probes: linear probes, with `network`, `layer` and `test_accuracy`; what those of the sender
            reach goes into the notes.
        chance: what guessing reaches; None: one in as many classes as `networks` or `labels` say.
        value: the column to judge; None: for each combination of factors `accuracy_calibrated`
            where all matrices have it in all of their cells, else `test_accuracy`, so that pairs and
            controls are compared by one.
        metric: the column that chose trials.
        mode: whether "max" or "min" of it is best.
        thresholds: where labels end.
        resamples: how often to resample.
        seed: of the resampling.

    Returns:
        Verdicts in the order of `matrices`.

    Raises:
        InputError: chance is unknown, no such column, or labels and predictions don't belong
            together.
    """
    chance = _chance(chance, labels, networks)
    best = best_trials(results, metric, mode)
    groups = best_by_matrix(best)
    found = _chosen_values(results, groups, value, metric, mode)
    truth = None if labels is None else _labels(labels)
    found = _as_planned(found, planned)
    context = _Context(best, predictions, truth, networks, planned)
    weights = _weights(networks)
    judged = []
    kinds = []
    for matrix, (_, _, cells) in zip(found, groups, strict=True):
        correct, notes = context.correct(matrix, cells)
        sender_kind, receiver_kind = (_kind(cells, role, weights) for role in PAIR)
        verdict = judge(
            matrix,
            chance=chance,
            correct=correct,
            test_images=context.test_images,
            sender_layers=context.layers[matrix.sender],
            receiver_layers=context.layers[matrix.receiver],
            control=_control(sender_kind, receiver_kind),
            thresholds=thresholds,
            resamples=resamples,
            seed=seed,
        )
        unknown = [
            str(getattr(matrix, role))
            for role, kind in zip(PAIR, (sender_kind, receiver_kind), strict=True)
            if kind is None
        ]
        if unknown:
            notes = [
                *notes,
                f"nothing says whether {listed(sorted(set(unknown)))} "
                f"{'is' if len(set(unknown)) == 1 else 'are'} trained, which is taken for granted",
            ]
        if verdict.control is None:
            notes = [*notes, *_probe_notes(verdict, probes)]
        judged.append(replace(verdict, notes=[*verdict.notes, *notes]))
        kinds.append((sender_kind or "trained", receiver_kind or "trained"))
    return [
        verdict
        if verdict.control is not None
        else _explained(verdict, _controls_of(verdict, judged, kinds, networks), thresholds)
        for verdict in judged
    ]


def _chance(
    chance: float | None, labels: pd.DataFrame | ArrayLike | None, networks: pd.DataFrame | None
) -> float:
    if chance is not None:
        return chance
    if networks is not None and "classes" in networks.columns:
        classes = {int(k) for k in networks["classes"].dropna()}
        if len(classes) > 1:
            raise InputError(
                f"networks of {listed([str(k) for k in sorted(classes)])} classes have no chance "
                "level in common; give it"
            )
        if classes:
            return 1 / classes.pop()
    if labels is not None:
        return 1 / len(np.unique(_labels(labels)))
    raise InputError("chance: unknown without the test images' labels or the networks; give it")


def _labels(labels: pd.DataFrame | ArrayLike) -> NDArray[np.int64]:
    if isinstance(labels, pd.DataFrame):
        if "label" not in labels.columns:
            raise InputError("labels: there is no column 'label'")
        labels = labels["label"].to_numpy()
    return np.asarray(labels, dtype=np.int64)


def _chosen_values(
    results: pd.DataFrame,
    groups: Sequence[tuple[tuple[str, str], dict[str, Any], pd.DataFrame]],
    value: str | None,
    metric: str,
    mode: Mode,
) -> list[Matrix]:
    if value is not None:
        return matrices(results, value, metric=metric, mode=mode)
    raw = matrices(results, metric=metric, mode=mode)
    if "accuracy_calibrated" not in results.columns:
        return raw
    calibrated = matrices(
        results.astype({"accuracy_calibrated": "float64"}),
        "accuracy_calibrated",
        metric=metric,
        mode=mode,
    )
    # One column for all pairs of a combination: a control is compared with what it controls.
    uncalibrated = [
        factors
        for _, factors, cells in groups
        if cells.loc[cells["status"] == "finished", "accuracy_calibrated"].isna().any()
    ]
    return [r if c.factors in uncalibrated else c for r, c in zip(raw, calibrated, strict=True)]


def _as_planned(found: Sequence[Matrix], planned: pd.DataFrame | None) -> list[Matrix]:
    """Add the layers that a pair was to have and no trial has reached: their cells are missing."""
    if planned is None:
        return list(found)
    lacking = [name for name in (*PAIR, *CELL) if name not in planned.columns]
    if lacking:
        raise InputError(f"planned: there is no column {listed(lacking)}")
    plans = {
        (str(sender), str(receiver)): [{int(k) for k in cells[name]} for name in CELL]
        for (sender, receiver), cells in planned.groupby(PAIR)
    }
    return [_wider(m, *plans.get((m.sender, m.receiver), (set(), set()))) for m in found]


def _wider(matrix: Matrix, rows: set[int], columns: set[int]) -> Matrix:
    index, across = (
        pd.Index(sorted({int(k) for k in axis} | more), name=axis.name)
        for axis, more in ((matrix.values.index, rows), (matrix.values.columns, columns))
    )

    def table(known: pd.DataFrame, **fill: Any) -> pd.DataFrame:
        return known.reindex(index=index, columns=across, **fill)

    return replace(
        matrix,
        values=table(matrix.values),
        converged=table(matrix.converged).astype("boolean"),
        failed=table(matrix.failed, fill_value=False),
        finished=table(matrix.finished, fill_value=0),
    )


class _Context:
    """What a sweep knows beside its results: predictions, labels, networks."""

    def __init__(
        self,
        best: pd.DataFrame,
        predictions: pd.DataFrame | None,
        truth: NDArray[np.int64] | None,
        networks: pd.DataFrame | None,
        planned: pd.DataFrame | None = None,
    ) -> None:
        self._truth = truth
        self._predicted: Mapping[str, Any] = {}
        if predictions is not None:
            missing = [k for k in ("trial", "predictions") if k not in predictions.columns]
            if missing:
                raise InputError(f"predictions: there is no column {listed(missing)}")
            self._predicted = dict(
                zip(predictions["trial"], predictions["predictions"], strict=True)
            )
        self._own: dict[str, NDArray[np.float32] | None] = {}
        self.layers: dict[str, int] = {}
        for role in PAIR:
            used = best if planned is None else pd.concat([best[[*PAIR, *CELL]], planned])
            for name, layers in used.groupby(role)[f"{role}_layer"]:
                self.layers[str(name)] = max(self.layers.get(str(name), 0), int(layers.max()) + 1)
        if networks is not None:
            self.layers |= layer_counts(networks)
            for row in networks.to_dict("records") if truth is not None else []:
                if not is_missing(row.get("predictions")):
                    name = str(row["network"])
                    self._own[name] = self._right(row["predictions"], f"network {name}")
        some = next(iter(self._predicted.values()), None)
        self.test_images = len(truth) if truth is not None else None if some is None else len(some)

    def _right(self, predicted: Any, whose: str) -> NDArray[np.float32]:
        assert self._truth is not None
        if len(predicted) != len(self._truth):
            raise InputError(
                f"{whose}: predictions of {len(predicted)} test images, but there are "
                f"{len(self._truth)} labels"
            )
        return (np.asarray(predicted) == self._truth).astype(np.float32)

    def correct(self, matrix: Matrix, best: pd.DataFrame) -> tuple[Correct | None, list[str]]:
        """What the matrix's cells have right, None where that is not known; and why, in a note."""
        if self._truth is None or not self._predicted:
            return None, []
        done = best[(best["status"] == "finished") & best[matrix.value_name].notna()]
        if not done["trial"].isin(list(self._predicted)).all():
            return None, [
                "not every cell's predictions are stored, so test images can't be resampled"
            ]
        cells = np.full((*matrix.values.shape, len(self._truth)), np.nan, dtype=np.float32)
        for (i, j), trials in done.groupby(["sender_layer", "receiver_layer"]):
            right = [self._right(self._predicted[t], f"trial {t}") for t in trials["trial"]]
            at = matrix.values.index.get_loc(i), matrix.values.columns.get_loc(j)
            cells[at] = np.mean(right, axis=0)
        # Predictions are those of the stitch as trained: of a calibrated accuracy they say nothing,
        # unless the loss leaves nothing to calibrate.
        apart = np.nanmax(np.abs(cells.mean(axis=-1) - matrix.values.to_numpy()), initial=0.0)
        if apart > 1e-4:
            if matrix.value_name == "test_accuracy":
                raise InputError(
                    f"{matrix.title}: test accuracies and predictions differ by up to {apart:.3g}; do "
                    "labels, predictions and results belong to one sweep?"
                )
            return None, [
                f"predictions are stored for the raw accuracy and not for the {matrix.value_label}, "
                "so test images can't be resampled"
            ]
        flat = cells.reshape(-1, len(self._truth))
        return Correct(flat, self._own.get(_better(matrix))), []


def _better(matrix: Matrix) -> str:
    """Which of the two networks has the higher accuracy of its own."""
    sender, receiver = matrix.sender_accuracy, matrix.receiver_accuracy
    return matrix.sender if math.isnan(receiver) or sender >= receiver else matrix.receiver


def _weights(networks: pd.DataFrame | None) -> dict[str, str]:
    """Where the weights of the measured networks come from."""
    if networks is None or "weights" not in networks.columns:
        return {}
    known = networks[["network", "weights"]].dropna()
    return dict(zip(known["network"].astype(str), known["weights"].astype(str), strict=True))


def _kind(cells: pd.DataFrame, role: str, weights: Mapping[str, str]) -> str | None:
    """What kind of network a matrix's sender or receiver is; None if nothing says so."""
    column = f"{role}_kind"
    known = cells[column].dropna() if column in cells.columns else pd.Series(dtype=str)
    return str(known.iloc[0]) if len(known) else weights.get(str(cells[role].iloc[0]))


def _control(sender: str | None, receiver: str | None) -> str | None:
    if sender == "class_only":
        return "class_only"
    untrained = (sender in _UNTRAINED, receiver in _UNTRAINED)
    names = {(True, True): "both", (True, False): "sender", (False, True): "receiver"}
    return f"untrained_{names[untrained]}" if untrained in names else None


def _probe_notes(verdict: Verdict, probes: pd.DataFrame | None) -> list[str]:
    """What a linear probe makes of the sender's layers by itself, in a sentence."""
    if probes is None:
        return []
    own = probes[probes["network"].astype(str) == verdict.matrix.sender]
    accuracies = own[own["layer"] >= 0].groupby("layer")["test_accuracy"].mean().dropna()
    reached = rescaled(accuracies.to_frame(), verdict.chance, verdict.best_accuracy).iloc[:, 0]
    if reached.empty or reached.isna().any():
        return []
    layers = [int(k) for k in reached.index]
    said = (
        f"rescaled, a linear probe reaches {listed([f'{x:.2f}' for x in reached])} on the sender's "
        f"{'layer' if len(layers) == 1 else 'layers'} {listed([str(k) for k in layers])}"
    )
    good = 0
    while good < len(layers) and reached.iloc[-1 - good] >= REACHED:
        good += 1
    if not good:
        return [f"{said}: up to the last of them the class is not linearly readable ({REACHED:g})"]
    return [
        f"{said}: from layer {layers[-good]} on ({REACHED:g} and more) the class is linearly readable "
        "anyway, and what these layers reach below the band needs no shared representation"
    ]


def _controls_of(
    verdict: Verdict,
    judged: Sequence[Verdict],
    kinds: Sequence[tuple[str, str]],
    networks: pd.DataFrame | None,
) -> list[Verdict]:
    """The controls of a pair: each side is the pair's own network or a control variant of it."""
    described = {} if networks is None else architectures(networks)

    def stands_for(name: str, kind: str, own: str) -> bool:
        if name == own:
            return True
        if kind not in (*_UNTRAINED, "class_only"):
            return False
        alike = name in described and described[name] == described.get(own)
        return alike or name in [own + suffix for suffix in _VARIANTS]

    return [
        other
        for other, (sender_kind, receiver_kind) in zip(judged, kinds, strict=True)
        if other.control is not None
        and other.withheld != "gaps"
        and other.matrix.factors == verdict.matrix.factors
        and other.matrix.value_name == verdict.matrix.value_name
        and stands_for(other.matrix.sender, sender_kind, verdict.matrix.sender)
        and stands_for(other.matrix.receiver, receiver_kind, verdict.matrix.receiver)
    ]


def _explained(verdict: Verdict, controls: Sequence[Verdict], thresholds: Thresholds) -> Verdict:
    """Add which controls do what the pair does.

    A control does so when it has the same label, or when it is at most `slack` below the pair in
    every region in which the pair performs, with values in at least half as many cells: a control
    that performs everywhere leaves a triangle's good half unexplained by anything of the sender's own.

    An `unclear` matrix has no shape to explain, but its regions are read all the same: a control that
    is as high there is noted.
    """
    if verdict.label == "none":
        return verdict
    if verdict.label == "unclear":
        return replace(verdict, notes=[*verdict.notes, *_matched(verdict, controls, thresholds)])
    explained, notes = [], []
    for control in controls:
        kind = str(control.control)
        who = _who(control)
        if control.label == verdict.label:
            notes.append(f"{who} makes the same shape: {_SUFFICES[kind]}")
        elif _as_high(control.parameters, verdict.parameters, thresholds):
            notes.append(f"{who} is as high wherever this pair performs: {_SUFFICES[kind]}")
        else:
            continue
        explained.append(kind)
    if _image_suffices(verdict, thresholds):
        explained.append("image")
        notes.append(f"the row of the image is as high as the band: {_SUFFICES['image']}")
    return replace(
        verdict,
        explained_by=[kind for kind in CONTROLS if kind in explained],
        notes=[*verdict.notes, *notes],
    )


def _matched(
    verdict: Verdict, controls: Sequence[Verdict], thresholds: Thresholds
) -> Iterator[str]:
    """Which controls are as high wherever a matrix without a shape performs, in sentences."""
    performing = _performing(verdict.parameters, thresholds)
    where = (
        "every region"
        if len(performing) == len(REGIONS)
        else f"the {listed(performing)} {'region' if len(performing) == 1 else 'regions'}, wherever "
        "this pair performs"
    )
    little = "what the regions show says little about the layers"
    for control in controls:
        if _as_high(control.parameters, verdict.parameters, thresholds):
            yield f"{_who(control)} reaches as much in {where}: {little}"
    if _image_suffices(verdict, thresholds):
        yield f"the row of the image is as high as the band: {little}"


def _who(control: Verdict) -> str:
    matrix = control.matrix
    return f"{matrix.sender} → {matrix.receiver} ({CONTROLS[str(control.control)]})"


def _performing(pair: OrderParameters, thresholds: Thresholds) -> list[str]:
    return [region for region in REGIONS if getattr(pair, region) >= thresholds.high]


def _as_high(control: OrderParameters, pair: OrderParameters, thresholds: Thresholds) -> bool:
    performing = _performing(pair, thresholds)
    return bool(performing) and all(
        getattr(control, r) >= getattr(pair, r) - thresholds.slack
        and 2 * control.cells[r] >= pair.cells[r]
        for r in performing
    )


def _image_suffices(verdict: Verdict, thresholds: Thresholds) -> bool:
    values = rescaled(verdict.matrix.values, verdict.chance, verdict.best_accuracy)
    if -1 not in values.index or not verdict.parameters.band >= thresholds.high:
        return False
    columns = [k for k in values.columns if int(k) >= 0]
    row = values.loc[-1, columns].dropna()
    return 2 * len(row) >= len(columns) > 0 and bool(
        (row >= verdict.parameters.band - thresholds.slack).all()
    )
