"""Comparison of the expected, task-stitched and similarity-stitched representation of a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor

from stitch_sweep.analysis.comparison.losses import identity_columns, is_task
from stitch_sweep.analysis.results import CELL, PAIR
from stitch_sweep.measuring.chunks import cell_chunks, represent
from stitch_sweep.measuring.outliers import OutlierDetector, OutlierScores, fit_detector
from stitch_sweep.measuring.squared_differences import SquaredDifferences
from stitch_sweep.measuring.stored_stitches import StoredStitch, StoredStitches
from stitch_sweep.plan.cells import Cell
from stitch_sweep.training.workbench import Workbench


@dataclass
class RepresentationRows:
    """The rows of `representations.parquet`, and the number of skipped cells.

    Attributes:
        rows: a row per cell, repeat, factors and loss other than the task's.
        compared: number of cells (with repeat and factors) that have rows.
        without_task: number of cells that have a similarity-trained stitch, but no task-trained one.
        without_similarity: number of cells that have only a task-trained stitch.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    compared: int = 0
    without_task: int = 0
    without_similarity: int = 0


@dataclass(frozen=True)
class _Combination:
    """The stitches of one cell, repeat and factors: the task-trained trial, and the others' losses."""

    key: Any
    task: str | None
    losses: dict[str, str]


@torch.no_grad()
def compare_representations(
    best: pd.DataFrame,
    bench: Workbench,
    stored: StoredStitches,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> RepresentationRows:
    """Compute EV, ES and SV (Hernandez et al. 2023) and out-of-distribution scores of every cell.

    Let e be the receiver's expected representation, v the output of the task-trained stitch
    ("vanilla"), and s the output of a stitch that was trained for another loss ("similarity"):

        EV = mean (e - v)^2,   ES = mean (e - s)^2,   SV = mean (s - v)^2

    over all values of all validation images. `_relative` divides by the variance of the expected
    representation (its mean over channels); a constant has the relative distance 1. If the similarity
    loss ignores scale, shift or rotation, a map that restores them follows s; it is fitted on the
    training images. `es_raw` and `sv_raw` are computed without this map. (arXiv 2303.11277.)

    `ood_task` and `ood_similarity` are the out-of-distribution scores of v, and of s behind its map. A
    detector (`OutlierDetector`) knows only the receiver's own representations of the training images and
    gives every representation an energy E. The score is the area under the ROC curve that tells stitched
    from own energies, over pairs of validation images:

        P(E(stitched) > E(own)) + P(E(stitched) = E(own)) / 2

    At 1/2, stitched representations cannot be told apart from the receiver's own; at 1, all are outside
    of their distribution; below 1/2, they are nearer to the class means than the receiver's own.

    This is the score of Balogh and Jelasity (AAAI 2025, arXiv 2412.11299), with another detector. Theirs
    is a ResNet-18 for every layer, whose energy -logsumexp(logits) is trained to be high on 300,000
    foreign images (Liu et al. 2020, arXiv 2010.03759). A sweep has no foreign images. Therefore the
    classifier is a Gaussian per class, whose energy is the negative logarithm of a density and needs
    none.

    Args:
        best: the finished best trial of every study; the bench must have all its networks.
        bench: the networks.
        stored: the stitches.
        on_progress: called with (finished cells, all cells).

    Returns:
        Rows of sender, receiver, sender_layer, receiver_layer, repeat, factors without the loss,
        `similarity_loss`, `ev`, `es`, `sv`, `ev_relative`, `es_relative`, `sv_relative`, `es_raw`,
        `sv_raw`, `variance`, `ood_task`, `ood_similarity`, `calibration` (the group of maps, or none),
        `task_trial` and `similarity_trial`. Scores are NaN where the receiver's own representations don't
        vary within a class.
    """
    detectors = _Detectors(bench)
    result = RepresentationRows()
    identity = ["repeat", *identity_columns(best)]
    cells = list(group_by_cell(best, bench))
    for done, (cell, trials) in enumerate(cells):
        on_progress(done, len(cells))
        combinations = [_combine(k, g) for k, g in trials.groupby(identity, dropna=False)]
        complete = [c for c in combinations if c.task and c.losses]
        stitches = stored.load(
            cell, [trial for c in complete for trial in (cast(str, c.task), *c.losses)]
        )
        usable = []
        for combination in combinations:
            losses = {t: loss for t, loss in combination.losses.items() if t in stitches}
            if combination.task in stitches and losses:
                usable.append(_Combination(combination.key, combination.task, losses))
            elif combination.task is None:
                result.without_task += 1
            elif not combination.losses:
                result.without_similarity += 1
        if usable:
            result.compared += len(usable)
            detector = detectors.find(cell)
            result.rows += _cell_rows(bench, cell, detector, stitches, usable, identity)
    return result


def group_by_cell(best: pd.DataFrame, bench: Workbench) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """Yield the best trials by cell, ordered by sender and sender layer, so that the cache is reused."""
    order = {name: k for k, name in enumerate(bench.senders)}
    groups: dict[Cell, pd.DataFrame] = {}
    for key, trials in best.groupby([*PAIR, *CELL]):
        sender, receiver, i, j = cast(tuple[str, str, int, int], key)
        groups[Cell(sender, int(i), receiver, int(j))] = trials
    for cell in sorted(
        groups,
        key=lambda c: (order[c.sender], c.sender_layer, c.sender, c.receiver, c.receiver_layer),
    ):
        yield cell, groups[cell]


def cell_columns(cell: Cell) -> dict[str, Any]:
    """Return the columns that identify a cell."""
    return {
        "sender": cell.sender,
        "receiver": cell.receiver,
        "sender_layer": cell.sender_layer,
        "receiver_layer": cell.receiver_layer,
    }


class _Detectors:
    """The detector of each receiver and layer, fitted when it is first needed."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._fitted: dict[tuple[str, int], OutlierDetector | None] = {}

    def find(self, cell: Cell) -> OutlierDetector | None:
        key = cell.receiver, cell.receiver_layer
        if key not in self._fitted:
            self._fitted[key] = fit_detector(self._own_representations(*key))
        return self._fitted[key]

    def _own_representations(self, receiver: str, layer: int) -> Iterator[tuple[Tensor, Tensor]]:
        labels = self._bench.loaders()["train"].images.labels
        first = 0
        for chunk, valid in represent(self._bench, "expected", receiver, layer, "train"):
            yield chunk[:valid], labels[first : first + valid]
            first += valid


def _combine(key: Any, trials: pd.DataFrame) -> _Combination:
    losses = dict(zip(trials["trial"], trials["loss"], strict=True))
    tasks = sorted((loss != "task", loss, t) for t, loss in losses.items() if is_task(loss))
    others = {t: loss for t, loss in losses.items() if not is_task(loss)}
    return _Combination(key, tasks[0][2] if tasks else None, others)


def _cell_rows(
    bench: Workbench,
    cell: Cell,
    detector: OutlierDetector | None,
    stitches: Mapping[str, StoredStitch],
    usable: list[_Combination],
    identity: list[str],
) -> Iterator[dict[str, Any]]:
    figures = _measure_figures(bench, cell, detector, stitches, usable)
    for combination in usable:
        for trial, loss in combination.losses.items():
            yield {
                **cell_columns(cell),
                **dict(zip(identity, combination.key, strict=True)),
                "similarity_loss": loss,
                **_row_figures(figures, combination.task, trial),
                "calibration": stitches[trial].calibration,
                "task_trial": combination.task,
                "similarity_trial": trial,
            }


def _measure_figures(
    bench: Workbench,
    cell: Cell,
    detector: OutlierDetector | None,
    stitches: Mapping[str, StoredStitch],
    usable: list[_Combination],
) -> dict[str, float]:
    """Measure all figures of a cell's rows in one pass over the validation images."""
    compared: dict[str, tuple[str, str]] = {}
    for combination in usable:
        task = cast(str, combination.task)
        compared[f"ev {task}"] = ("expected", task)
        for trial in combination.losses:
            for suffix in ("", " raw"):
                compared[f"es {trial}{suffix}"] = ("expected", f"{trial}{suffix}")
                compared[f"sv {trial}{suffix}"] = (f"{trial}{suffix}", task)
    names = {name for pair in compared.values() for name in pair} - {"expected"}
    differences = SquaredDifferences(compared, "expected")
    scores = OutlierScores(detector, "expected", [n for n in names if not n.endswith(" raw")])
    for sent, expected, valid in cell_chunks(bench, cell, "validation"):
        representations = {"expected": expected[:valid]}
        for name in names:
            stitch = stitches[name.removesuffix(" raw")]
            apply = stitch.module if name.endswith(" raw") else stitch
            representations[name] = apply(sent)[:valid]
        differences.add(representations)
        scores.add(representations)
    return differences.result() | {f"ood {name}": v for name, v in scores.result().items()}


def _row_figures(figures: Mapping[str, float], task: str | None, trial: str) -> dict[str, float]:
    names = {"ev": f"ev {task}", "es": f"es {trial}", "sv": f"sv {trial}"}
    return {
        **{short: figures[name] for short, name in names.items()},
        **{f"{short}_relative": figures[f"{name}_relative"] for short, name in names.items()},
        "es_raw": figures[f"es {trial} raw"],
        "sv_raw": figures[f"sv {trial} raw"],
        "variance": figures["variance"],
        "ood_task": figures[f"ood {task}"],
        "ood_similarity": figures[f"ood {trial}"],
    }
