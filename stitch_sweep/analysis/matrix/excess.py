"""The excess matrix: what a pair reaches beyond its logits-only control, cell by cell.

The control's sender carries the log-probabilities of linear probes of the sender's layers, so its matrix
is what linearly decodable class information is worth to the receiver. The excess of a cell is

    E_ij = accuracy with the sender's layer i - accuracy with the log-probabilities of its probe

into the receiver's layer j. Its L, D and U are region means, divided by the better network's own accuracy
minus chance, so they are the pair's L, D and U minus those of the control. Both matrices are measured on
the same test images, and the intervals are those of paired differences.

A negative excess doesn't mean that the sender knows less: the training of a cell may have ended early.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stitch_sweep.analysis.matrix.judging import Correct, judge
from stitch_sweep.analysis.matrix.label_thresholds import Thresholds
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.verdict import Verdict
from stitch_sweep.core.measures import BEYOND_LOGITS

EXCESS_THRESHOLDS = Thresholds(high=0.05, contrast=0.05, slack=0.05, nothing=0.05)
"""The thresholds between labels of an excess matrix, in units of rescaled accuracy. They are a choice,
since no published matrix has an excess: 0.05 is about the noise of a cell's training."""


def judge_excess(
    pair: Matrix,
    control: Matrix,
    correct: Correct | None,
    correct_of_control: Correct | None,
    *,
    chance: float,
    sender_layers: int | None = None,
    receiver_layers: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Verdict:
    """Judge what a pair reaches beyond its logits-only control.

    Args:
        pair: the matrix of two trained networks.
        control: that of the pair's logits-only control, of the same value.
        correct: which test images the pair's cells get right; without it, there are no intervals.
        correct_of_control: the same for the control.
        chance: accuracy of guessing.
        sender_layers: see `judge`.
        receiver_layers: see `judge`.
        resamples: number of resamples.
        seed: of the resampling.

    Returns:
        A verdict on a matrix of differences, labeled with `EXCESS_THRESHOLDS`: `diagonal` says that
        the excess is largest at equal depth, `none` that no region exceeds the control.

    Raises:
        InputError: see `judge`.
    """
    difference = subtract(pair, control)
    paired = None
    if correct is not None and correct_of_control is not None:
        cells = correct.cells - _rearrange(correct_of_control.cells, control, pair)
        paired = Correct(cells, correct.better)
    verdict = judge(
        difference,
        chance=chance,
        correct=paired,
        sender_layers=sender_layers,
        receiver_layers=receiver_layers,
        thresholds=EXCESS_THRESHOLDS,
        resamples=resamples,
        seed=seed,
    )
    return replace(verdict, notes=[*verdict.notes, *_negative_notes(verdict)])


def subtract(pair: Matrix, control: Matrix) -> Matrix:
    """Subtract the control's values from the pair's, cell by cell.

    A cell has a value where both have one. It has converged if both have, and has failed if either has.

    Args:
        pair: the matrix of a pair of trained networks.
        control: that of its logits-only control.
    """

    def of_control(name: str) -> pd.DataFrame:
        table: pd.DataFrame = getattr(control, name)
        return table.reindex(index=pair.values.index, columns=pair.values.columns)

    finished = of_control("finished").fillna(0).astype("int64")
    return replace(
        pair,
        value_name=BEYOND_LOGITS,
        values=pair.values - of_control("values"),
        converged=pair.converged & of_control("converged").astype("boolean"),
        failed=pair.failed | of_control("failed").fillna(False).astype(bool),
        finished=pair.finished.where(pair.finished <= finished, finished),
    )


def _rearrange(cells: NDArray[np.float32], source: Matrix, target: Matrix) -> NDArray[np.float32]:
    """Bring rows of cells, (I J, N), into the order of another matrix; NaN where it has more cells."""
    images = cells.shape[1]
    by_cell = cells.reshape(*source.values.shape, images)
    found = np.full((*target.values.shape, images), np.nan, dtype=np.float32)
    rows = source.values.index.get_indexer(target.values.index)
    columns = source.values.columns.get_indexer(target.values.columns)
    inside = np.ix_(rows >= 0, columns >= 0)
    found[inside] = by_cell[np.ix_(rows[rows >= 0], columns[columns >= 0])]
    return found.reshape(-1, images)


def _negative_notes(verdict: Verdict) -> list[str]:
    """Note the cells that are below their control by more than the noise of the test images."""
    if verdict.cell_intervals is None:
        return []
    count = int((verdict.cell_intervals[1] < 0).to_numpy().sum())
    if not count:
        return []
    cells = "1 cell is" if count == 1 else f"{count} cells are"
    return [
        f"{cells} below the logits-only control: the log-probabilities are a function of the "
        "sender's layer, so the stitch, or its training, could not use what is there"
    ]
