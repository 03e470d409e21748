"""Judge every matrix of a sweep, and find the controls that explain its pairs.

Example:
    >>> for verdict in verdicts(load_results(folder), labels=labels):  # doctest: +SKIP
    ...     print(verdict.matrix.title, verdict.headline)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from stitch_sweep.analysis.matrix.controls import (
    control_kind,
    controls_of,
    explain,
    network_kind,
    network_weights,
)
from stitch_sweep.analysis.matrix.evidence import Evidence, chance_level, read_labels
from stitch_sweep.analysis.matrix.excess import judge_excess
from stitch_sweep.analysis.matrix.judging import judge
from stitch_sweep.analysis.matrix.label_thresholds import THRESHOLDS, Thresholds
from stitch_sweep.analysis.matrix.matrices import best_by_matrix, matrices
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.notes import listed, probe_notes, training_notes
from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.analysis.results import CELL, PAIR, Mode, best_trials
from stitch_sweep.core.errors import InputError


def verdicts(
    results: pd.DataFrame,
    *,
    predictions: pd.DataFrame | None = None,
    labels: pd.DataFrame | ArrayLike | None = None,
    networks: pd.DataFrame | None = None,
    planned: pd.DataFrame | None = None,
    probes: pd.DataFrame | None = None,
    receiver_free: Mapping[str, Collection[int]] | None = None,
    chance: float | None = None,
    value: str | None = None,
    metric: str = "val_accuracy",
    mode: Mode = "max",
    thresholds: Thresholds = THRESHOLDS,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Verdict]:
    """Judge every matrix of a sweep, and find the controls that explain its pairs.

    Args:
        results: a row per trial, as `load_results` returns it.
        predictions: columns `trial` and `predictions` (the class predicted for every test image).
        labels: the test images' classes, or a table with a column `label`.
        networks: a row per network, as measured: `network`, `family`, `options`, `depth`, `classes`,
            `predictions`, `weights`. Without it, the networks' own accuracies are held fixed in the
            intervals, and layers are counted from the results. `weights` identifies untrained
            networks where `results` has no `sender_kind` and `receiver_kind`.
        planned: a row per planned cell of the sweep, with `sender`, `receiver`, `sender_layer` and
            `receiver_layer`: planned layers that no trial of a pair has reached yet are missing cells
            of its matrices. None: a pair's layers are those of its trials.
        probes: linear probes, with `network`, `layer` and `test_accuracy`; the notes report the
            accuracies of the sender's probes.
        receiver_free: network -> layers after which it is linear as a receiver.
        chance: accuracy of guessing; None: 1 / number of classes of `networks` or `labels`.
        value: the column to judge; None: for each combination of factors `accuracy_calibrated`
            where all matrices have it in all of their cells, else `test_accuracy`, so that pairs and
            controls are compared by the same column.
        metric: the column that chose trials.
        mode: whether its "max" or its "min" is best.
        thresholds: the thresholds between labels.
        resamples: number of resamples.
        seed: of the resampling.

    Returns:
        Verdicts in the order of `matrices`.

    Raises:
        InputError: chance is unknown, no such column, or labels and predictions don't belong
            together.
    """
    chance = chance_level(chance, labels, networks)
    best = best_trials(results, metric, mode)
    groups = best_by_matrix(best)
    judged_matrices = _choose_values(results, groups, value, metric, mode)
    truth = None if labels is None else read_labels(labels)
    judged_matrices = _add_planned_layers(judged_matrices, planned)
    evidence = Evidence(best, predictions, truth, networks, planned)
    weights = network_weights(networks)
    judged = []
    kinds = []
    for matrix, (_, _, cells) in zip(judged_matrices, groups, strict=True):
        correct, notes = evidence.correct(matrix, cells)
        pair_kinds = [network_kind(cells, role, weights) for role in PAIR]
        verdict = judge(
            _mark_receiver_free(matrix, (receiver_free or {}).get(matrix.receiver, ())),
            chance=chance,
            correct=correct,
            test_images=evidence.test_images,
            sender_layers=evidence.layers[matrix.sender],
            receiver_layers=evidence.layers[matrix.receiver],
            control=control_kind(*pair_kinds),
            thresholds=thresholds,
            resamples=resamples,
            seed=seed,
        )
        unknown = [
            name
            for name, kind in zip((matrix.sender, matrix.receiver), pair_kinds, strict=True)
            if kind is None
        ]
        notes = [*notes, *training_notes(unknown)]
        if verdict.control is None:
            notes += probe_notes(
                matrix.sender, probes, chance=chance, best_accuracy=verdict.best_accuracy
            )
        judged.append(replace(verdict, notes=[*verdict.notes, *notes]))
        kinds.append((pair_kinds[0] or "trained", pair_kinds[1] or "trained"))
    groups_by_matrix = {
        id(v.matrix): cells for v, (_, _, cells) in zip(judged, groups, strict=True)
    }

    def beyond_logits(pair: Verdict, controls: Sequence[Verdict]) -> Verdict | None:
        control = next((c for c in controls if c.control == "logits_only"), None)
        if control is None:
            return None
        corrects = (
            evidence.correct(v.matrix, groups_by_matrix[id(v.matrix)])[0] for v in (pair, control)
        )
        return judge_excess(
            pair.matrix,
            control.matrix,
            *corrects,
            chance=chance,
            sender_layers=evidence.layers[pair.matrix.sender],
            receiver_layers=evidence.layers[pair.matrix.receiver],
            resamples=resamples,
            seed=seed,
        )

    def complete(verdict: Verdict) -> Verdict:
        if verdict.control is not None:
            return verdict
        controls = controls_of(verdict, judged, kinds, networks)
        explained = explain(verdict, controls, thresholds)
        return replace(explained, excess=beyond_logits(verdict, controls))

    return [complete(verdict) for verdict in judged]


def _mark_receiver_free(matrix: Matrix, layers: Collection[int]) -> Matrix:
    return replace(matrix, receiver_free=frozenset(layers) & set(map(int, matrix.values.columns)))


def _choose_values(
    results: pd.DataFrame,
    groups: Sequence[tuple[tuple[str, str], dict[str, Any], pd.DataFrame]],
    value: str | None,
    metric: str,
    mode: Mode,
) -> list[Matrix]:
    """Build the matrices of the column to judge; see `verdicts`."""
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
    # All pairs of a combination of factors have the same column, so that controls are comparable.
    uncalibrated = [
        factors
        for _, factors, cells in groups
        if cells.loc[cells["status"] == "finished", "accuracy_calibrated"].isna().any()
    ]
    return [r if c.factors in uncalibrated else c for r, c in zip(raw, calibrated, strict=True)]


def _add_planned_layers(existing: Sequence[Matrix], planned: pd.DataFrame | None) -> list[Matrix]:
    """Add the planned layers that no trial of a pair has reached: their cells are missing."""
    if planned is None:
        return list(existing)
    lacking = [name for name in (*PAIR, *CELL) if name not in planned.columns]
    if lacking:
        raise InputError(f"planned: there is no column {listed(lacking)}")
    plans = {
        (str(sender), str(receiver)): [{int(k) for k in cells[name]} for name in CELL]
        for (sender, receiver), cells in planned.groupby(PAIR)
    }
    return [_widen(m, *plans.get((m.sender, m.receiver), (set(), set()))) for m in existing]


def _widen(matrix: Matrix, rows: set[int], columns: set[int]) -> Matrix:
    """Add rows and columns of missing cells."""
    index, header = (
        pd.Index(sorted({int(k) for k in axis} | more), name=axis.name)
        for axis, more in ((matrix.values.index, rows), (matrix.values.columns, columns))
    )

    def widen(table: pd.DataFrame, **fill: Any) -> pd.DataFrame:
        return table.reindex(index=index, columns=header, **fill)

    return replace(
        matrix,
        values=widen(matrix.values),
        converged=widen(matrix.converged).astype("boolean"),
        failed=widen(matrix.failed, fill_value=False),
        finished=widen(matrix.finished, fill_value=0),
    )
