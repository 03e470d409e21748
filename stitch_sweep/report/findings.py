"""All analyses of one experiment, computed once for page, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, get_args

import numpy as np
import pandas as pd

from stitch_sweep.analysis.comparison.agreement import agreement
from stitch_sweep.analysis.comparison.correlations import measure_correlations
from stitch_sweep.analysis.comparison.hacking import hacking
from stitch_sweep.analysis.comparison.losses import loss_table
from stitch_sweep.analysis.comparison.regional import regional
from stitch_sweep.analysis.comparison.task import against_task
from stitch_sweep.analysis.ladder.fit import LadderFit
from stitch_sweep.analysis.ladder.points import Size, ladder_points
from stitch_sweep.analysis.ladder.transition import fit_ladders
from stitch_sweep.analysis.matrix.excess import EXCESS_THRESHOLDS
from stitch_sweep.analysis.matrix.knock_out import gap_matrices
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.order_parameters import regions
from stitch_sweep.analysis.matrix.populations import architecture_verdicts
from stitch_sweep.analysis.matrix.sweep_verdicts import verdicts
from stitch_sweep.analysis.matrix.verdict import CONTROL_TITLES, Verdict
from stitch_sweep.analysis.networks import layer_counts
from stitch_sweep.analysis.results import CELL, PAIR
from stitch_sweep.core.errors import InputError
from stitch_sweep.core.measures import OUTLIER_SCORES, REPRESENTATION_QUANTITIES
from stitch_sweep.report.experiment import Experiment
from stitch_sweep.report.planned import planned_cells

DECISIONS = ("kappa_sender", "kappa_receiver")
"""The columns that tell whether a stitched network fails like its sender or like its receiver."""

Result = TypeVar("Result")
Pair = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Ladder:
    """The matrices of one experiment against one kind of size.

    Attributes:
        size: "depth", "width" or "parameters".
        points: a row per matrix, as `analysis.ladder.points.ladder_points` returns it.
        fits: series -> fit of the order parameter.
    """

    size: str
    points: pd.DataFrame
    fits: dict[str, LadderFit]


@dataclass(frozen=True, eq=False)
class Findings:
    """Results of all analyses. A table is None if it could not be computed; `notes` give the reason.

    Attributes:
        experiment: the analyzed experiment; None for a bare matrix.
        verdicts: one per matrix.
        architectures: one per pair of architectures with at least three networks each, and one for what
            they reach beyond their logits-only controls.
        chance: the accuracy of guessing.
        ladders: one per kind of size of which the networks have several.
        losses: `comparison.losses.loss_table`.
        against_task: `comparison.task.against_task`, for layers from 0 on.
        representations: EV, ES, SV and out-of-distribution scores by region, from
            `comparison.regional.regional`.
        measures: every measure by region, likewise.
        correlations: `comparison.correlations.measure_correlations`, without controls, for layers from
            0 on.
        hacking: `comparison.hacking.hacking`, for layers from 0 on, with a column `control`: the
            kind of control, missing for a pair that is not a control.
        agreement: `comparison.agreement.agreement`.
        decisions: error consistency with sender and with receiver by region, likewise.
        notes: failed computations with their reasons, a sentence each.
    """

    experiment: Experiment | None
    verdicts: list[Verdict]
    chance: float
    architectures: list[Verdict] = field(default_factory=list)
    ladders: list[Ladder] = field(default_factory=list)
    losses: pd.DataFrame | None = None
    against_task: pd.DataFrame | None = None
    representations: pd.DataFrame | None = None
    measures: pd.DataFrame | None = None
    correlations: pd.DataFrame | None = None
    hacking: pd.DataFrame | None = None
    agreement: pd.DataFrame | None = None
    decisions: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def excesses(self) -> list[Verdict]:
        """What each pair with a logits-only control reaches beyond it."""
        return [verdict.excess for verdict in self.verdicts if verdict.excess is not None]

    @property
    def gaps(self) -> list[Matrix]:
        """The gap matrix of every network whose layers were knocked out."""
        parts = () if self.experiment is None else self.experiment.parts
        networks = {str(k.get("network")) for part in parts for k in part.sections("knock_out")}
        return list(gap_matrices((verdict.matrix for verdict in self.verdicts), networks))

    @property
    def representation_quantities(self) -> dict[str, list[str]]:
        """The `REPRESENTATION_QUANTITIES` that `representations` has, by the name of their figure."""
        if self.representations is None or self.representations.empty:
            return {}
        present = set(self.representations["quantity"])
        names = [name for name in REPRESENTATION_QUANTITIES if name in present]
        figures = {
            "representations": [name for name in names if name not in OUTLIER_SCORES],
            "outlier_scores": [name for name in names if name in OUTLIER_SCORES],
        }
        return {figure: quantities for figure, quantities in figures.items() if quantities}


def derive_findings(
    experiment: Experiment, *, chance: float | None = None, seed: int = 0
) -> Findings:
    """Run every analysis that the experiment's tables allow.

    Args:
        experiment: as `load_experiment` or `merge` returns it.
        chance: the accuracy of guessing; None: 1 / number of classes.
        seed: seed of the resampling.

    Raises:
        InputError: the number of classes is unknown, or `chance` is not an accuracy.
    """
    return _Analysis(experiment, chance, seed).run()


class _Analysis:
    """One run of all analyses: shared inputs, and notes on failed computations."""

    def __init__(self, experiment: Experiment, chance: float | None, seed: int) -> None:
        self.experiment = experiment
        self.seed = seed
        self.notes: list[str] = []
        self.networks = experiment.table("networks")
        self.rule: dict[str, Any] = {"metric": experiment.metric, "mode": experiment.mode}
        self.chance = _derive_chance(experiment, self.notes) if chance is None else chance

    def run(self) -> Findings:
        experiment, results = self.experiment, self.experiment.results
        verdict_list = self._verdicts()
        losses = self._attempt("the comparison of losses", lambda: loss_table(results, **self.rule))
        regions_of_pairs = {
            (v.matrix.sender, v.matrix.receiver): regions(
                v.matrix.values, **_layer_numbers(v.matrix, self.networks)
            )
            for v in verdict_list
        }
        representations = experiment.table("representations")
        controls = {
            (v.matrix.sender, v.matrix.receiver): v.control for v in verdict_list if v.control
        }
        inner_losses = None if losses is None else from_layer_zero(losses)
        agreeing = self._agreement()
        hacked = self._attempt(
            "well performing cells far from the expected representation",
            lambda: hacking(
                results, chance=self.chance, representations=representations, **self.rule
            ),
        )
        return Findings(
            experiment=experiment,
            verdicts=verdict_list,
            chance=self.chance,
            architectures=self._architectures(verdict_list),
            ladders=self._ladders(verdict_list),
            losses=losses,
            against_task=None if inner_losses is None else against_task(inner_losses),
            representations=None
            if representations is None or representations.empty
            else self._attempt(
                "EV, ES and SV by region", lambda: regional(representations, regions_of_pairs)
            ),
            measures=None
            if losses is None
            else self._attempt(
                "the measures by region", lambda: regional(losses, regions_of_pairs)
            ),
            correlations=None
            if inner_losses is None
            else measure_correlations(inner_losses[_control_kinds(inner_losses, controls).isna()]),
            hacking=None
            if hacked is None
            else from_layer_zero(hacked).assign(
                control=lambda table: _control_kinds(table, controls)
            ),
            agreement=agreeing,
            decisions=None
            if agreeing is None or agreeing.empty
            else self._attempt(
                "error consistency by region",
                lambda: regional(agreeing, regions_of_pairs, DECISIONS),
            ),
            notes=self.notes,
        )

    def _attempt(self, subject: str, compute: Callable[[], Result]) -> Result | None:
        """Return the result of a computation, or None and a note if its input can't be used."""
        try:
            return compute()
        except InputError as error:
            self.notes.append(f"{subject} could not be computed: {'; '.join(error.problems)}")
            return None

    def _verdicts(self) -> list[Verdict]:
        experiment = self.experiment
        planned = planned_cells(experiment)
        judge = partial(
            verdicts,
            experiment.results,
            planned=planned,
            receiver_free=_find_receiver_free(experiment),
            chance=self.chance,
            seed=self.seed,
            **self.rule,
        )
        verdict_list = self._attempt(
            "intervals",
            lambda: judge(
                predictions=experiment.predictions,
                labels=experiment.table("labels"),
                networks=self.networks,
                probes=experiment.table("probes"),
            ),
        )
        # The matrices can be judged without the measured tables.
        return judge() if verdict_list is None else verdict_list

    def _architectures(self, verdict_list: list[Verdict]) -> list[Verdict]:
        networks = self.networks
        if networks is None:
            return []
        excesses = [v.excess for v in verdict_list if v.excess is not None]
        return (
            self._attempt(
                "verdicts on architectures",
                lambda: [
                    *architecture_verdicts(verdict_list, networks, seed=self.seed),
                    *architecture_verdicts(
                        excesses, networks, thresholds=EXCESS_THRESHOLDS, seed=self.seed
                    ),
                ],
            )
            or []
        )

    def _agreement(self) -> pd.DataFrame | None:
        results, networks = self.experiment.results, self.networks
        labels, predictions = self.experiment.table("labels"), self.experiment.predictions
        if predictions is None or labels is None or networks is None:
            return None
        return self._attempt(
            "agreement with sender and receiver",
            lambda: agreement(results, predictions, labels, networks, **self.rule),
        )

    def _ladders(self, verdict_list: list[Verdict]) -> list[Ladder]:
        """Compute a ladder for each kind of size of which the pairs have at least two."""
        if self.networks is None:
            return []
        pairs = [v.matrix for v in verdict_list if v.control is None]
        used = {name for matrix in pairs for name in (matrix.sender, matrix.receiver)}
        # Some controls have no size: a class-only sender has no parameters.
        networks = self.networks[self.networks["network"].isin(used)]
        ladders = []
        for size in get_args(Size):
            if size not in networks.columns or networks[size].dropna().nunique() < 2:
                continue
            subject = f"the ladder over {size}"
            judged = [*verdict_list, *(v.excess for v in verdict_list if v.excess is not None)]
            points = self._attempt(subject, partial(ladder_points, judged, networks, size))
            if points is None or points["size"].dropna().nunique() < 2:
                continue
            if (points["reason"] != "").all():
                reasons = " and ".join(sorted(set(points["reason"])))
                self.notes.append(f"{subject} could not be computed: for every matrix, {reasons}")
            fits = self._attempt(subject, partial(fit_ladders, points, seed=self.seed))
            ladders.append(Ladder(size, points, fits or {}))
        return ladders


def _derive_chance(experiment: Experiment, notes: list[str]) -> float:
    """Return 1 / number of classes, from the networks, the ledger or the predictions."""
    networks, predictions = experiment.table("networks"), experiment.predictions
    if networks is not None and "classes" in networks and networks["classes"].notna().any():
        return 1 / int(networks["classes"].dropna().iloc[0])
    for part in experiment.parts:
        count = (part.description or {}).get("classes")
        if isinstance(count, int) and count > 1:
            return 1 / count
        described = ((part.description or {}).get("decides") or {}).get("networks") or {}
        for network in described.values():
            weights = network.get("weights") if isinstance(network, Mapping) else None
            data = weights.get("data") if isinstance(weights, Mapping) else None
            classes = data.get("classes") if isinstance(data, Mapping) else None
            if isinstance(classes, int) and classes > 1:
                return 1 / classes
    if predictions is not None and len(predictions):
        classes = 1 + int(max(max(row, default=0) for row in predictions["predictions"]))
        if classes > 1:
            notes.append(
                f"chance is taken as 1 in {classes}, the classes that any trial predicted; "
                "--chance sets it"
            )
            return 1 / classes
    raise InputError(
        f"{experiment.name}: the number of classes is unknown; set the accuracy of guessing with "
        "--chance"
    )


def _find_receiver_free(experiment: Experiment) -> dict[str, list[int]]:
    """Return the layers after which each network is linear, from the measured tables or the ledger."""
    found: dict[str, list[int]] = {}
    for part in experiment.parts:
        described = (part.description or {}).get("receiver_free")
        for name, layers in described.items() if isinstance(described, Mapping) else ():
            found[str(name)] = _layer_list(layers)
    networks = experiment.table("networks")
    if networks is not None and "receiver_free" in networks:
        for name, layers in zip(networks["network"], networks["receiver_free"], strict=True):
            found[str(name)] = _layer_list(layers)
    return found


def _layer_list(layers: Any) -> list[int]:
    # A folder may come from a stranger, and an older table has no lists.
    is_list = isinstance(layers, list | tuple | np.ndarray)
    return [int(k) for k in layers if isinstance(k, int | np.integer)] if is_list else []


def _layer_numbers(matrix: Matrix, networks: pd.DataFrame | None) -> dict[str, int | None]:
    """Return the numbers of layers from 0 on of sender and receiver; None where unknown."""
    counts = {} if networks is None else layer_counts(networks)
    return {
        "sender_layers": counts.get(matrix.sender),
        "receiver_layers": counts.get(matrix.receiver),
    }


def _control_kinds(table: pd.DataFrame, controls: Mapping[Pair, str]) -> pd.Series:
    """Return the kind of control of each row's pair, missing where it is not a control."""
    kinds = [controls.get((str(a), str(b))) for a, b in zip(*(table[k] for k in PAIR), strict=True)]
    return pd.Series(kinds, index=table.index, dtype="object")


def from_layer_zero(table: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of layers from 0 on; of a pair without such layers, all its rows.

    Args:
        table: a table with the columns of `PAIR` and `CELL`.
    """
    is_inside = (table[CELL] >= 0).all(axis=1)
    has_inside = is_inside.groupby([table[name] for name in PAIR]).transform("any").astype(bool)
    return table[is_inside | ~has_inside]


def makes_images(matrix: Matrix) -> bool:
    """Whether all stitches that were run lead into layer -1. Such a matrix has no shape."""
    ran = ~matrix.missing
    columns = [layer for layer in matrix.values.columns if int(layer) >= 0]
    return not columns or bool(ran.any(axis=None) and not ran[columns].any(axis=None))


def headline(verdict: Verdict) -> str:
    """Return the label of a verdict; "images" for a matrix without a shape."""
    if not makes_images(verdict.matrix):
        return verdict.headline
    return (
        "images"
        if verdict.control is None
        else f"control ({CONTROL_TITLES[verdict.control]}), images"
    )


def counted_cells(matrix: Matrix, table: pd.DataFrame) -> pd.DataFrame:
    """Select the layers from 0 on: means and counts are computed over them.

    Args:
        matrix: the matrix.
        table: one of its tables.

    Returns:
        The selected part; the whole table if only cells that begin or end at the image were run.
    """
    rows, columns = ([k for k in axis if int(k) >= 0] for axis in matrix.values.axes)
    ran = ~matrix.missing.loc[rows, columns]
    return table.loc[rows, columns] if ran.any(axis=None) else table


def mean_accuracy(verdict: Verdict) -> float:
    """Return the mean of a matrix's values over `counted_cells`; NaN if there are none."""
    values = counted_cells(verdict.matrix, verdict.matrix.values).to_numpy()
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if len(finite) else math.nan


def own_accuracies(verdict_list: Sequence[Verdict]) -> list[float]:
    """Return the receivers' own test accuracies, ascending, as far as known."""
    accuracies = (verdict.matrix.receiver_accuracy for verdict in verdict_list)
    return sorted(accuracy for accuracy in accuracies if not math.isnan(accuracy))
