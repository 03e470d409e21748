"""Judge one matrix: label, intervals and notes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stitch_sweep.analysis.matrix.effects import row_and_column_test
from stitch_sweep.analysis.matrix.label_thresholds import THRESHOLDS, Thresholds
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.notes import layer_notes, scale_notes, shape_notes
from stitch_sweep.analysis.matrix.order_parameters import (
    order_parameters,
    reach,
    region_means,
    regions,
    rescaled_matrix,
)
from stitch_sweep.analysis.matrix.quality import check_accuracies, check_quality
from stitch_sweep.analysis.matrix.uncertainty import (
    BINOMIAL,
    IMAGES,
    Resamples,
    resample_counts,
    resample_images,
)
from stitch_sweep.analysis.matrix.verdict import CONTROL_TITLES, Verdict
from stitch_sweep.core.errors import InputError, nearest


@dataclass(frozen=True, eq=False)
class Correct:
    """Which test images the cells and the better of the two networks get right.

    Attributes:
        cells: shape (I J, N), a matrix's cells row by row: 1 where right, else 0, or the share of
            repeats that are; NaN in all images of a cell without a value. For a matrix of differences,
            the difference of two such values.
        better: shape (N,), for the network with the higher own accuracy, None if unknown.
    """

    cells: NDArray[np.float32]
    better: NDArray[np.float32] | None = None

    def of_columns(self, kept: NDArray[np.bool_]) -> Correct:
        """Return the cells of some of a matrix's columns; `kept` has the shape (J,)."""
        rows = len(self.cells) // len(kept)
        return Correct(self.cells[np.tile(kept, rows)], self.better)


def judge(
    matrix: Matrix,
    *,
    chance: float,
    correct: Correct | None = None,
    test_images: int | None = None,
    sender_layers: int | None = None,
    receiver_layers: int | None = None,
    control: str | None = None,
    by_maximum: bool = False,
    thresholds: Thresholds = THRESHOLDS,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Verdict:
    """Judge one matrix.

    Args:
        matrix: accuracies, shape (I, J).
        chance: accuracy of guessing.
        correct: which test images each cell gets right: for a paired bootstrap over test images.
        test_images: the number of test images of the accuracies: without `correct`, for binomial
            measurement error. Without both, there are no intervals.
        sender_layers: number of layers of the complete sender, counted from layer 0. If None,
            the number that the matrix shows.
        receiver_layers: the same for the receiver.
        control: a key of `CONTROL_TITLES` if the matrix is a control.
        by_maximum: whether the matrix's maximum counts as 1 if neither own accuracy is known.
            Otherwise such a matrix has no scale.
        thresholds: the thresholds between labels.
        resamples: number of resamples.
        level: of the intervals.
        seed: of the resampling.

    Raises:
        InputError: chance or an accuracy outside [0, 1], a layer beyond its network, no test images,
            or predictions of another shape than the matrix.
    """
    where = regions(matrix.values, sender_layers=sender_layers, receiver_layers=receiver_layers)
    check_accuracies(matrix, chance, test_images)
    best = float(np.fmax(matrix.sender_accuracy, matrix.receiver_accuracy))
    relative = by_maximum and math.isnan(best)
    if relative:
        best = float(np.nanmax(matrix.values.where(where.notna()).to_numpy(), initial=chance))
    values = rescaled_matrix(matrix, chance, best)
    parameters = order_parameters(values, where)
    notes = scale_notes(best, chance, relative)
    label, withheld, quality_notes = check_quality(matrix, where, parameters.label(thresholds))
    notes += quality_notes
    notes += layer_notes(matrix, sender_layers, receiver_layers)
    sampled, sampling_notes = _resample(
        matrix, chance, best, relative, where, correct, test_images, resamples, seed
    )
    notes += sampling_notes
    p_value = row_and_column_test(values, where)
    notes += shape_notes(label, p_value)
    reduced = None
    kept = np.array([int(k) not in matrix.receiver_free for k in matrix.values.columns])
    if not kept.all() and any(int(k) >= 0 for k in matrix.values.columns[kept]):
        highest = max(int(k) for k in matrix.values.columns)
        reduced = judge(
            matrix.without_columns(matrix.receiver_free),
            chance=chance,
            correct=correct and correct.of_columns(kept),
            test_images=test_images,
            sender_layers=sender_layers,
            receiver_layers=highest + 1 if receiver_layers is None else receiver_layers,
            control=control,
            by_maximum=by_maximum,
            thresholds=thresholds,
            resamples=resamples,
            level=level,
            seed=seed,
        )
    return Verdict(
        matrix=matrix,
        chance=chance,
        best_accuracy=best,
        label=label,
        parameters=parameters,
        intervals={} if sampled is None else sampled.intervals(level),
        label_shares={} if sampled is None else sampled.label_shares(thresholds),
        p_value=p_value,
        reach=reach(values),
        cell_intervals=None if sampled is None else _cell_tables(matrix, sampled, level),
        control=control,
        withheld=withheld,
        notes=notes,
        relative=relative,
        reduced=reduced,
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
    """Judge a matrix whose values alone are known, such as a published matrix.

    Its intervals are binomial measurement error. They do not include the variation between networks
    or between trainings.

    Args:
        values: accuracies in [0, 1], shape (I, J), as `read_matrix` returns them.
        sender_accuracy: the sender's own test accuracy, NaN if unknown.
        receiver_accuracy: the receiver's own. If both are unknown, the matrix's maximum counts as 1; the
            verdict says so.
        test_images: the number of test images of the accuracies, None if unknown (then there are no
            intervals).
        chance: accuracy of guessing.
        sender: the sender's name.
        receiver: the receiver's name; the sender's name for a network stitched to itself.
        sender_layers: number of layers of the complete sender, counted from layer 0. If None,
            the number of rows, without that of the image.
        receiver_layers: the same for the receiver.
        control: a key of `CONTROL_TITLES` if the matrix is a control, so that it is not shown as a
            finding.
        seed: of the resampling.

    Raises:
        InputError: as `judge`; or no such control.

    Example:
        >>> values = pd.DataFrame([[0.9, 0.4], [0.9, 0.9]])
        >>> judge_bare(values, sender_accuracy=0.9, receiver_accuracy=0.9, test_images=1000).label
        'triangle'
    """
    if control is not None and control not in CONTROL_TITLES:
        raise InputError(f"control {control!r}: {nearest(str(control), list(CONTROL_TITLES))}")
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
        by_maximum=True,
        seed=seed,
    )


def _resample(
    matrix: Matrix,
    chance: float,
    best: float,
    relative: bool,
    where: pd.DataFrame,
    correct: Correct | None,
    test_images: int | None,
    resamples: int,
    seed: int,
) -> tuple[Resamples | None, list[str]]:
    """Resample test images or counts, with notes; None if neither is known."""
    values = matrix.values.to_numpy(dtype=np.float64).ravel()
    # The better network is chosen once. The larger of two noisy accuracies, chosen again in every
    # resample, would be too high.
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
                "the better network's own predictions are not known, so its accuracy is held fixed "
                "in the intervals"
            )
        sampled, method = resample_images(np.concatenate(rows), resamples, seed), IMAGES
    elif test_images is not None:
        # The matrix's maximum is no accuracy that was measured apart from the cells: it is held fixed.
        counted = values if relative else np.append(values, best)
        sampled = resample_counts(counted, test_images, resamples, seed)
        method = BINOMIAL
        notes.append(
            f"intervals are measurement error on {test_images} test images only: they do not include "
            "other networks or another training"
        )
    else:
        return None, []
    scale = sampled[:, values.size] if sampled.shape[1] > values.size else np.full(resamples, best)
    cells = sampled[:, : values.size]
    means = region_means(
        cells + chance if matrix.is_difference else cells,
        scale,
        chance,
        where.to_numpy(dtype=object).ravel(),
    )
    return Resamples(means, method, cells), notes


def _cell_tables(
    matrix: Matrix, sampled: Resamples, level: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    low, high = (
        pd.DataFrame(
            ends.reshape(matrix.values.shape),
            index=matrix.values.index,
            columns=matrix.values.columns,
        )
        for ends in sampled.cell_intervals(level)
    )
    return low, high
