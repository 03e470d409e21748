"""Several networks of one architecture: what holds for other seeds too.

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

from stitch_sweep.analysis.matrix.matrices import Matrix
from stitch_sweep.analysis.matrix.order import (
    LEAST_RANGE,
    THRESHOLDS,
    Floats,
    Thresholds,
    order_parameters,
    reach,
    region_means,
    regions,
    rescaled,
)
from stitch_sweep.analysis.matrix.quality import (
    check_accuracies,
    layer_notes,
    listed,
    quality,
    shape_notes,
)
from stitch_sweep.analysis.matrix.uncertainty import (
    FEWEST_NETWORKS,
    NETWORKS,
    Resamples,
    pools,
    resample_networks,
    row_and_column_test,
    widening,
)
from stitch_sweep.analysis.matrix.verdict import CONTROLS, Verdict
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
    """Judge a pair of architectures by several pairs of their networks, trained under other seeds.

    Every matrix is rescaled by its own networks, the matrices are averaged cell by cell, and the
    intervals come from drawing networks, not pairs, since pairs share them: they speak about other
    seeds of these architectures. Few networks make such a bootstrap too narrow; the deviations of
    L, D and U from their means are therefore multiplied by `widening`.

    Args:
        group: matrices of the same layers, values and factors, of at least three networks on each
            side.
        chance: what guessing reaches.
        sender: what to call the senders together.
        receiver: what to call the receivers together.
        sender_layers: as for `judge`.
        receiver_layers: as for `judge`.
        thresholds: where labels end.
        resamples: how often to resample.
        level: of the intervals.
        seed: of the resampling.

    Pairs without a scale (the better of their networks is near chance or unknown) or without a value
    are left out before, and named.

    Returns:
        A verdict whose matrix holds mean accuracies, while its parameters are of the mean of
        the rescaled ones.

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
    group, left_out = _usable(group, chance)
    if not group:
        raise InputError(*left_out)
    pairs = [(m.sender, m.receiver) for m in group]
    weights = resample_networks(pairs, resamples, seed)
    best = np.array([np.fmax(m.sender_accuracy, m.receiver_accuracy) for m in group])
    each = np.stack(
        [
            rescaled(m.values, chance, float(b)).to_numpy(dtype=np.float64).ravel()
            for m, b in zip(group, best, strict=True)
        ]
    )
    where = regions(first.values, sender_layers=sender_layers, receiver_layers=receiver_layers)
    mean = _mean_matrix(group, sender, receiver)
    values = pd.DataFrame(
        _weighted(np.full((1, len(group)), 1.0), each).reshape(first.values.shape),
        index=first.values.index,
        columns=first.values.columns,
    )
    parameters = order_parameters(values, where)
    label, withheld, notes = quality(mean, where, parameters.label(thresholds))
    notes += left_out + layer_notes(replace(mean, repeats=1), sender_layers, receiver_layers)
    # Already on the scale from 0 to 1.
    means = region_means(
        _weighted(weights, each), np.ones(resamples), 0.0, where.to_numpy().ravel()
    )
    centre = np.array([[parameters.lower], [parameters.band], [parameters.upper]])
    wide = Resamples(centre + widening(pairs, weights, level) * (means - centre), NETWORKS)
    notes.append(
        f"mean of {len(group)} pairs of {len({m.sender for m in group})} senders and "
        f"{len({m.receiver for m in group})} receivers; intervals are over networks"
    )
    p_value = row_and_column_test(values, where)
    notes += shape_notes(label, p_value)
    return Verdict(
        matrix=mean,
        chance=chance,
        best_accuracy=float(np.mean(best)),
        label=label,
        parameters=parameters,
        intervals=wide.intervals(level),
        # Of matrices that were really drawn: a widened one is none that networks made.
        label_shares=Resamples(means, NETWORKS).label_shares(thresholds),
        p_value=p_value,
        reach=reach(values),
        withheld=withheld,
        notes=notes,
    )


def _usable(group: Sequence[Matrix], chance: float) -> tuple[list[Matrix], list[str]]:
    """The matrices that have values and a scale; and which have none, in a sentence."""
    kept = [
        m
        for m in group
        if np.fmax(m.sender_accuracy, m.receiver_accuracy) - chance >= LEAST_RANGE
        and m.without_image().values.notna().any(axis=None)
    ]
    lost = [f"{m.sender} → {m.receiver}" for m in group if not any(m is k for k in kept)]
    if not lost:
        return kept, []
    return kept, [
        f"left out, for the better of their networks is near chance or unknown, or for want of "
        f"values: {listed(lost)}"
    ]


def _weighted(weights: Floats, each: Floats) -> Floats:
    """Means of P matrices (P, I J) under weights (R, P), cell by cell over those that have it."""
    known = ~np.isnan(each)
    total = weights @ known
    sums = weights @ np.where(known, each, 0)
    return np.divide(sums, total, out=np.full(sums.shape, np.nan), where=total > 0)


def _mean_matrix(group: Sequence[Matrix], sender: str, receiver: str) -> Matrix:
    first = group[0]

    def over(tables: Sequence[pd.DataFrame]) -> NDArray[Any]:
        return np.stack([table.to_numpy() for table in tables])

    def table(cells: NDArray[Any]) -> pd.DataFrame:
        return pd.DataFrame(cells, index=first.values.index, columns=first.values.columns)

    values = over([m.values for m in group]).astype(np.float64)
    each = values.reshape(len(group), -1)
    mean = _weighted(np.ones((1, len(group))), each).reshape(first.values.shape)
    # A cell counts as unconverged when it is so in half of the pairs.
    unconverged = over([m.unconverged for m in group]).mean(axis=0) >= 0.5
    return Matrix(
        sender=sender,
        receiver=receiver,
        factors=first.factors,
        value_name=first.value_name,
        values=table(mean),
        converged=table(~unconverged).astype("boolean"),
        failed=table(np.isnan(mean) & over([m.failed for m in group]).any(axis=0)),
        finished=table(over([m.finished for m in group]).sum(axis=0)),
        sender_accuracy=_mean_known([m.sender_accuracy for m in group]),
        receiver_accuracy=_mean_known([m.receiver_accuracy for m in group]),
        repeats=sum(m.repeats for m in group),
    )


def _mean_known(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def architecture_verdicts(
    judged: Sequence[Verdict],
    networks: pd.DataFrame,
    *,
    thresholds: Thresholds = THRESHOLDS,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Verdict]:
    """One verdict per pair of architectures that three or more networks on each side stand for.

    Args:
        judged: verdicts of single pairs, as `verdicts` returns them; controls are left out.
        networks: a row per network, with `network`, `family`, `options` and `depth`.
        thresholds: where labels end.
        resamples: how often to resample.
        seed: of the resampling.

    Returns:
        Verdicts of `judge_networks`; self-pairs apart from pairs of two networks. A control
        that explains every pair of a group explains the group. Groups of fewer networks, or whose
        matrices have different layers, have none.
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
    found = []
    for group in groups.values():
        usable, _ = _usable([v.matrix for v in group], group[0].chance)
        used = [v for v in group if any(v.matrix is m for m in usable)]
        if not used:
            continue
        senders, receivers = (sorted({getattr(v.matrix, role) for v in used}) for role in PAIR)
        pairs = [(v.matrix.sender, v.matrix.receiver) for v in used]
        if min(map(len, pools(pairs))) < FEWEST_NETWORKS:
            continue
        # Named apart, or pairs of two networks would pass for networks stitched to themselves.
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
        found.append(_explained(verdict, used))
    return found


def _explained(verdict: Verdict, group: Sequence[Verdict]) -> Verdict:
    """Carry over the controls that explain every single pair."""
    kinds = [kind for kind in CONTROLS if all(kind in v.explained_by for v in group)]
    if not kinds or verdict.label in ("none", "unclear"):
        return verdict
    words = listed([CONTROLS[kind] for kind in kinds])
    note = f"of each of these pairs a control does the same: {words}"
    return replace(verdict, explained_by=kinds, notes=[*verdict.notes, note])
