"""Judge pairs of architectures by several of their networks, so that verdicts cover other seeds.

Example:
    >>> judged = verdicts(load_results(folder), networks=networks)  # doctest: +SKIP
    >>> for verdict in architecture_verdicts(judged, networks):  # doctest: +SKIP
    ...     print(verdict.headline, verdict.intervals["order"])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stitch_sweep.analysis.matrix.effects import row_and_column_test
from stitch_sweep.analysis.matrix.indices import Floats
from stitch_sweep.analysis.matrix.label_thresholds import THRESHOLDS, Thresholds
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.network_bootstrap import (
    FEWEST_NETWORKS,
    pools,
    resample_networks,
    widening,
)
from stitch_sweep.analysis.matrix.notes import layer_notes, listed, shape_notes
from stitch_sweep.analysis.matrix.order_parameters import (
    LEAST_RANGE,
    order_parameters,
    reach,
    region_means,
    regions,
    rescaled_matrix,
)
from stitch_sweep.analysis.matrix.quality import check_accuracies, check_quality
from stitch_sweep.analysis.matrix.uncertainty import NETWORKS, Resamples
from stitch_sweep.analysis.matrix.verdict import CONTROL_TITLES, Verdict
from stitch_sweep.analysis.networks import architectures, layer_counts
from stitch_sweep.analysis.results import PAIR
from stitch_sweep.core.errors import InputError


def judge_networks(
    group: Sequence[Matrix],
    *,
    chance: float,
    sender: str,
    receiver: str,
    sender_layers: int | None = None,
    receiver_layers: int | None = None,
    thresholds: Thresholds = THRESHOLDS,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Verdict:
    """Judge a pair of architectures by several pairs of their networks, trained with other seeds.

    Every matrix is rescaled by its own networks, and the matrices are averaged cell by cell. The
    intervals come from drawing networks rather than pairs, because pairs share networks; they cover
    other seeds of these architectures. With few networks such a bootstrap is too narrow, so the
    deviations of L, D and U from their means are multiplied by `widening`.

    Pairs without a scale (the better of their networks is near chance or unknown) or without a value
    are skipped, and a note names them.

    Args:
        group: matrices of the same layers, values and factors, of at least three networks on each
            side.
        chance: accuracy of guessing.
        sender: a name for all senders together.
        receiver: a name for all receivers together.
        sender_layers: as for `judge`.
        receiver_layers: as for `judge`.
        thresholds: the thresholds between labels.
        resamples: number of resamples.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        A verdict whose matrix contains mean accuracies. Its parameters are computed from the mean of the
        rescaled matrices. Columns that are receiver-free in every matrix are receiver-free in it.

    Raises:
        InputError: no matrices, matrices that differ in layers, values or factors, or too few
            networks among those that can be used.
    """
    if not group:
        raise InputError("no matrices to judge")
    first = group[0]
    for matrix in group:
        check_accuracies(matrix, chance, None)
        if not (
            matrix.values.index.equals(first.values.index)
            and matrix.values.columns.equals(first.values.columns)
        ):
            raise InputError(f"{matrix.title}: its layers differ from those of {first.title}")
        if (matrix.value_name, matrix.factors) != (first.value_name, first.factors):
            raise InputError(
                f"{matrix.title}: its values or factors differ from those of {first.title}"
            )
    group, unusable_notes = _select_usable(group, chance)
    if not group:
        raise InputError(*unusable_notes)
    pairs = [(m.sender, m.receiver) for m in group]
    weights = resample_networks(pairs, resamples, seed)
    best = np.array([np.fmax(m.sender_accuracy, m.receiver_accuracy) for m in group])
    each = np.stack(
        [
            rescaled_matrix(m, chance, float(b)).to_numpy(dtype=np.float64).ravel()
            for m, b in zip(group, best, strict=True)
        ]
    )
    where = regions(first.values, sender_layers=sender_layers, receiver_layers=receiver_layers)
    mean = _average(group, sender, receiver)
    values = pd.DataFrame(
        _weighted_means(np.full((1, len(group)), 1.0), each).reshape(first.values.shape),
        index=first.values.index,
        columns=first.values.columns,
    )
    parameters = order_parameters(values, where)
    label, withheld, notes = check_quality(mean, where, parameters.label(thresholds))
    notes += unusable_notes + layer_notes(replace(mean, repeats=1), sender_layers, receiver_layers)
    # The matrices are rescaled already: chance is 0 and the best accuracy 1.
    means = region_means(
        _weighted_means(weights, each), np.ones(resamples), 0.0, where.to_numpy().ravel()
    )
    center = np.array([[parameters.lower], [parameters.band], [parameters.upper]])
    widened = Resamples(center + widening(pairs, weights, level) * (means - center), NETWORKS)
    notes.append(
        f"mean of {len(group)} pairs of {len({m.sender for m in group})} senders and "
        f"{len({m.receiver for m in group})} receivers; intervals are over networks"
    )
    p_value = row_and_column_test(values, where)
    notes += shape_notes(label, p_value)
    reduced = None
    layers = [int(k) for k in first.values.columns]
    if mean.receiver_free and any(k >= 0 for k in set(layers) - mean.receiver_free):
        reduced = judge_networks(
            [m.without_columns(mean.receiver_free) for m in group],
            chance=chance,
            sender=sender,
            receiver=receiver,
            sender_layers=sender_layers,
            receiver_layers=max(layers) + 1 if receiver_layers is None else receiver_layers,
            thresholds=thresholds,
            resamples=resamples,
            level=level,
            seed=seed,
        )
    return Verdict(
        matrix=mean,
        chance=chance,
        best_accuracy=float(np.mean(best)),
        label=label,
        parameters=parameters,
        intervals=widened.intervals(level),
        # Labels are those of the drawn matrices: no network has a widened matrix.
        label_shares=Resamples(means, NETWORKS).label_shares(thresholds),
        p_value=p_value,
        reach=reach(values),
        withheld=withheld,
        notes=notes,
        reduced=reduced,
    )


def _select_usable(group: Sequence[Matrix], chance: float) -> tuple[list[Matrix], list[str]]:
    """Select the matrices that have values and a scale, with a note that names the others."""
    usable_matrices = [
        m
        for m in group
        if np.fmax(m.sender_accuracy, m.receiver_accuracy) - chance >= LEAST_RANGE
        and m.without_image().values.notna().any(axis=None)
    ]
    unusable = [
        f"{m.sender} → {m.receiver}" for m in group if not any(m is k for k in usable_matrices)
    ]
    if not unusable:
        return usable_matrices, []
    return usable_matrices, [
        "left out because the better of their networks is near chance or unknown, or because they "
        f"have no values: {listed(unusable)}"
    ]


def _weighted_means(weights: Floats, each: Floats) -> Floats:
    """Return R weighted means of P matrices, cell by cell, without the matrices that lack a value.

    Args:
        weights: weight of each matrix in each mean, (R, P).
        each: the matrices, (P, I J); NaN where a value is missing.

    Returns:
        (R, I J); NaN where no matrix with a positive weight has a value.
    """
    defined = ~np.isnan(each)
    total = weights @ defined
    sums = weights @ np.where(defined, each, 0)
    return np.divide(sums, total, out=np.full(sums.shape, np.nan), where=total > 0)


def _average(group: Sequence[Matrix], sender: str, receiver: str) -> Matrix:
    """Average matrices of the same layers cell by cell."""
    first = group[0]

    def stack(tables: Sequence[pd.DataFrame]) -> NDArray[Any]:
        return np.stack([table.to_numpy() for table in tables])

    def table(cells: NDArray[Any]) -> pd.DataFrame:
        return pd.DataFrame(cells, index=first.values.index, columns=first.values.columns)

    values = stack([m.values for m in group]).astype(np.float64)
    each = values.reshape(len(group), -1)
    mean = _weighted_means(np.ones((1, len(group))), each).reshape(first.values.shape)
    # A cell counts as unconverged if it is unconverged in at least half of the pairs.
    unconverged = stack([m.unconverged for m in group]).mean(axis=0) >= 0.5
    return Matrix(
        sender=sender,
        receiver=receiver,
        factors=first.factors,
        value_name=first.value_name,
        values=table(mean),
        converged=table(~unconverged).astype("boolean"),
        failed=table(np.isnan(mean) & stack([m.failed for m in group]).any(axis=0)),
        finished=table(stack([m.finished for m in group]).sum(axis=0)),
        sender_accuracy=_mean_of_defined([m.sender_accuracy for m in group]),
        receiver_accuracy=_mean_of_defined([m.receiver_accuracy for m in group]),
        repeats=sum(m.repeats for m in group),
        receiver_free=frozenset.intersection(*(m.receiver_free for m in group)),
    )


def _mean_of_defined(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def architecture_verdicts(
    judged: Sequence[Verdict],
    networks: pd.DataFrame,
    *,
    thresholds: Thresholds = THRESHOLDS,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Verdict]:
    """Judge each pair of architectures that has three or more networks on each side.

    Args:
        judged: verdicts of single pairs, as `verdicts` returns them; controls are skipped.
        networks: a row per network, with `network`, `family`, `options` and `depth`.
        thresholds: the thresholds between labels.
        resamples: number of resamples.
        seed: of the resampling.

    Returns:
        Verdicts of `judge_networks`; those of self-pairs are separate from those of two networks. A
        control that explains every pair of a group explains the group. Matrices with different layers
        are in different groups, and groups of fewer networks have no verdict.
    """
    described, counts = architectures(networks), layer_counts(networks)
    groups: dict[tuple[Any, ...], list[Verdict]] = {}
    for verdict in judged:
        m = verdict.matrix
        if verdict.control is None and m.sender in described and m.receiver in described:
            key = (
                described[m.sender],
                described[m.receiver],
                m.kind,
                m.value_name,
                tuple(sorted((k, repr(v)) for k, v in m.factors.items())),
                tuple(m.values.index),
                tuple(m.values.columns),
            )
            groups.setdefault(key, []).append(verdict)
    group_verdicts = []
    for group in groups.values():
        usable, _ = _select_usable([v.matrix for v in group], group[0].chance)
        used = [v for v in group if any(v.matrix is m for m in usable)]
        if not used:
            continue
        senders, receivers = (sorted({getattr(v.matrix, role) for v in used}) for role in PAIR)
        pairs = [(v.matrix.sender, v.matrix.receiver) for v in used]
        if min(map(len, pools(pairs))) < FEWEST_NETWORKS:
            continue
        # Without "another of", pairs of two networks would look like self-pairs.
        among = "" if group[0].matrix.kind == "self-pair" else "another of "
        verdict = judge_networks(
            [v.matrix for v in group],
            chance=group[0].chance,
            sender=", ".join(senders),
            receiver=(among if senders == receivers else "") + ", ".join(receivers),
            sender_layers=counts.get(senders[0]),
            receiver_layers=counts.get(receivers[0]),
            thresholds=thresholds,
            resamples=resamples,
            seed=seed,
        )
        group_verdicts.append(_explain_group(verdict, used))
    return group_verdicts


def _explain_group(verdict: Verdict, group: Sequence[Verdict]) -> Verdict:
    """Add the controls that explain every pair of the group."""
    kinds = [kind for kind in CONTROL_TITLES if all(kind in v.explained_by for v in group)]
    if not kinds or verdict.label in ("none", "unclear"):
        return verdict
    titles = listed([CONTROL_TITLES[kind] for kind in kinds])
    note = f"each of these pairs has a control that does the same: {titles}"
    return replace(verdict, explained_by=kinds, notes=[*verdict.notes, note])
