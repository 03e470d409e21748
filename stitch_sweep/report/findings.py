"""Everything the analysis has to say about one experiment, computed once for page, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, get_args

import numpy as np
import pandas as pd

from stitch_sweep.analysis.comparison.agreement import agreement
from stitch_sweep.analysis.comparison.losses import (
    against_task,
    hacking,
    loss_table,
    measure_correlations,
    regional,
)
from stitch_sweep.analysis.ladder.fit import LadderFit
from stitch_sweep.analysis.ladder.points import Size, ladder_points
from stitch_sweep.analysis.ladder.transition import fit_ladders
from stitch_sweep.analysis.matrix.knock_out import gap_matrices
from stitch_sweep.analysis.matrix.matrices import Matrix
from stitch_sweep.analysis.matrix.order import regions
from stitch_sweep.analysis.matrix.populations import architecture_verdicts
from stitch_sweep.analysis.matrix.verdict import CONTROLS, Verdict, verdicts
from stitch_sweep.analysis.networks import layer_counts
from stitch_sweep.analysis.results import CELL, MOST_CELLS, PAIR
from stitch_sweep.config.models import KnockOutConfig
from stitch_sweep.core.errors import InputError
from stitch_sweep.report.experiment import Experiment, sections

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Ladder:
    """The matrices of one experiment against one kind of size.

    Attributes:
        size: "depth", "width" or "parameters".
        points: as `analysis.ladder.ladder_points` returns them.
        fits: series -> fit of the order parameter.
    """

    size: str
    points: pd.DataFrame
    fits: dict[str, LadderFit]


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found; a table is None where it couldn't be made, and `notes` say why.

    Attributes:
        experiment: what it was found in; None for a bare matrix.
        verdicts: one per matrix.
        architectures: one per pair of architectures that three or more networks stand for.
        chance: what guessing reaches.
        ladders: for each kind of size of which the networks have several.
        losses: `comparison.loss_table`.
        against_task: `comparison.against_task`, of layers from 0 on.
        representations: EV, ES and SV by region, `comparison.regional`.
        measures: every measure by region, likewise.
        correlations: `comparison.measure_correlations`, without controls, of layers from 0 on.
        hacking: `comparison.hacking`, of layers from 0 on, with a column `control` that has the
            kind of a control and is missing for a pair.
        agreement: `agreement.agreement`.
        notes: what couldn't be computed and why, a sentence each.
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
    notes: list[str] = field(default_factory=list)

    @property
    def gaps(self) -> list[Matrix]:
        """The gap matrix of every network that lost layers."""
        parts = () if self.experiment is None else self.experiment.parts
        asked = {str(k.get("network")) for p in parts for k in sections(p.config, "knock_out")}
        return list(gap_matrices((verdict.matrix for verdict in self.verdicts), asked))


def analyse(experiment: Experiment, *, chance: float | None = None, seed: int = 0) -> Findings:
    """Run every analysis that the experiment's tables allow.

    Args:
        experiment: as `load_experiment` or `merge` returns it.
        chance: what guessing reaches; None: one in as many classes as are known of.
        seed: of the resampling.

    Raises:
        InputError: nothing tells how many classes there are, or chance is no accuracy.
    """
    notes: list[str] = []

    def attempt(what: str, compute: Callable[[], Result]) -> Result | None:
        try:
            return compute()
        except InputError as error:
            notes.append(f"{what} could not be computed: {'; '.join(error.problems)}")
            return None

    results, networks = experiment.results, experiment.table("networks")
    labels, predictions = experiment.table("labels"), experiment.predictions
    rule: dict[str, Any] = {"metric": experiment.metric, "mode": experiment.mode}
    chance = _chance(experiment, notes) if chance is None else chance
    found = attempt(
        "intervals",
        lambda: verdicts(
            results,
            predictions=predictions,
            labels=labels,
            networks=networks,
            planned=_planned(experiment),
            probes=experiment.table("probes"),
            chance=chance,
            seed=seed,
            **rule,
        ),
    )
    if found is None:
        # Whatever was wrong with what `measure` wrote, the matrices themselves can still be read.
        planned = _planned(experiment)
        found = verdicts(results, planned=planned, chance=chance, seed=seed, **rule)
    losses = attempt("the comparison of losses", lambda: loss_table(results, **rule))
    where = {
        (v.matrix.sender, v.matrix.receiver): regions(v.matrix.values, **_layers(v, networks))
        for v in found
    }
    representations = experiment.table("representations")
    controls = {(v.matrix.sender, v.matrix.receiver): v.control for v in found if v.control}
    layered = None if losses is None else from_zero(losses)
    hacked = attempt(
        "well performing cells far from the expected representation",
        lambda: hacking(results, chance=chance, representations=representations, **rule),
    )
    return Findings(
        experiment=experiment,
        verdicts=found,
        chance=chance,
        architectures=[]
        if networks is None
        else attempt(
            "verdicts on architectures", lambda: architecture_verdicts(found, networks, seed=seed)
        )
        or [],
        ladders=[] if networks is None else _ladders(found, networks, seed, attempt, notes),
        losses=losses,
        against_task=None if layered is None else against_task(layered),
        representations=None
        if representations is None or representations.empty
        else attempt("EV, ES and SV by region", lambda: regional(representations, where)),
        measures=None
        if losses is None
        else attempt("the measures by region", lambda: regional(losses, where)),
        correlations=None
        if layered is None
        else measure_correlations(layered[_kinds(layered, controls).isna()]),
        hacking=None
        if hacked is None
        else from_zero(hacked).assign(control=lambda table: _kinds(table, controls)),
        agreement=None
        if predictions is None or labels is None or networks is None
        else attempt(
            "agreement with sender and receiver",
            lambda: agreement(results, predictions, labels, networks, **rule),
        ),
        notes=notes,
    )


def _chance(experiment: Experiment, notes: list[str]) -> float:
    """One in as many classes as networks, ledger or predictions tell of."""
    networks, predictions = experiment.table("networks"), experiment.predictions
    if networks is not None and "classes" in networks and networks["classes"].notna().any():
        return 1 / int(networks["classes"].dropna().iloc[0])
    for part in experiment.parts:
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
    raise InputError(f"{experiment.name}: nothing says how many classes there are; give --chance")


def _planned(experiment: Experiment) -> pd.DataFrame:
    """The cells that the configurations ask for, of all pairs whose layers are known."""
    measured = experiment.table("networks")
    counts = {} if measured is None else layer_counts(measured)
    found: list[tuple[Any, ...]] = []
    for part in experiment.parts:
        last: dict[str, int] = {}
        for network in sections(part.config, "networks"):
            names, blocks = network.get("layers"), network.get("blocks")
            if isinstance(names, list):
                last[str(network.get("name"))] = len(names) - 1
            elif network.get("family", "resnet") == "resnet" and isinstance(blocks, list):
                last[str(network.get("name"))] = sum(k for k in blocks if isinstance(k, int))
        last |= {name: count - 1 for name, count in counts.items()}
        for pair in sections(part.config, "pairs"):
            sides = [pair.get(f"{role}_layers", "all") for role in PAIR]
            ends = [str(pair.get(role)) for role in PAIR]
            layers = [
                side if isinstance(side, list) else range(last.get(name, -1) + 1)
                for side, name in zip(sides, ends, strict=True)
            ]
            if len(found) + math.prod(map(len, layers)) > MOST_CELLS:
                raise InputError(f"the configuration asks for more than {MOST_CELLS:,} cells")
            found += [(*ends, i, j) for i in layers[0] for j in layers[1]]
        for section in sections(part.config, "knock_out"):
            out = KnockOutConfig.model_validate(section)
            if len(found) + last.get(out.network, 0) ** 2 > MOST_CELLS:
                raise InputError(f"the configuration asks for more than {MOST_CELLS:,} cells")
            found += [(*[out.network] * 2, *cell) for cell in out.cells(last.get(out.network, -1))]
    return pd.DataFrame(found, columns=[*PAIR, *CELL])


def _layers(verdict: Verdict, networks: pd.DataFrame | None) -> dict[str, int | None]:
    """How many layers from 0 on sender and receiver have; None where unknown."""
    known = {} if networks is None else layer_counts(networks)
    return {
        "sender_layers": known.get(verdict.matrix.sender),
        "receiver_layers": known.get(verdict.matrix.receiver),
    }


def _ladders(
    found: list[Verdict],
    networks: pd.DataFrame,
    seed: int,
    attempt: Callable[[str, Callable[[], Any]], Any],
    notes: list[str],
) -> list[Ladder]:
    """A ladder for each kind of size of which the pairs have at least two."""
    pairs = [v.matrix for v in found if v.control is None]
    used = {name for matrix in pairs for name in (matrix.sender, matrix.receiver)}
    # Of controls some have no size: a sender that knows the class has no parameters.
    networks = networks[networks["network"].isin(used)]
    ladders = []
    for size in get_args(Size):
        if size not in networks.columns or networks[size].dropna().nunique() < 2:
            continue
        what = f"the ladder over {size}"
        points = attempt(what, partial(ladder_points, found, networks, size))
        if points is None or points["size"].dropna().nunique() < 2:
            continue
        if (points["reason"] != "").all():
            why = " and ".join(sorted(set(points["reason"])))
            notes.append(f"{what} could not be computed: of every matrix on it, {why}")
        fits = attempt(what, partial(fit_ladders, points, seed=seed))
        ladders.append(Ladder(size, points, fits or {}))
    return ladders


def _kinds(table: pd.DataFrame, controls: Mapping[tuple[str, str], str]) -> pd.Series:
    """The kind of control that each row's pair is, missing where it is none."""
    kinds = [controls.get((str(a), str(b))) for a, b in zip(*(table[k] for k in PAIR), strict=True)]
    return pd.Series(kinds, index=table.index, dtype="object")


def from_zero(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of layers from 0 on; of a pair that has none, such as one that makes images, all.

    Args:
        table: columns of `PAIR` and `CELL`.
    """
    inside = (table[CELL] >= 0).all(axis=1)
    some = inside.groupby([table[name] for name in PAIR]).transform("any").astype(bool)
    return table[inside | ~some]


def makes_images(matrix: Matrix) -> bool:
    """Whether all its stitches that were run lead into layer -1: it has images, and no shape."""
    ran = ~matrix.missing
    columns = [layer for layer in matrix.values.columns if int(layer) >= 0]
    return not columns or bool(ran.any(axis=None) and not ran[columns].any(axis=None))


def headline(verdict: Verdict) -> str:
    """A verdict's label as it is shown: of images none is given."""
    if not makes_images(verdict.matrix):
        return verdict.headline
    return "images" if verdict.control is None else f"control ({CONTROLS[verdict.control]}), images"


def counted(matrix: Matrix, table: pd.DataFrame) -> pd.DataFrame:
    """The part of one of a matrix's tables that means and counts are of: layers from 0 on.

    All of it where nothing else was run than what begins or ends at the image.
    """
    rows, columns = ([k for k in axis if int(k) >= 0] for axis in matrix.values.axes)
    ran = ~matrix.missing.loc[rows, columns]
    return table.loc[rows, columns] if ran.any(axis=None) else table


def mean_accuracy(verdict: Verdict) -> float:
    """Mean of a matrix's values from layer 0 on, NaN where there is none; see `counted`."""
    values = counted(verdict.matrix, verdict.matrix.values).to_numpy()
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
