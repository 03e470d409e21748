"""Check a matrix's values, and withhold its label where too few of them are usable."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pandas as pd

from stitch_sweep.analysis.matrix.knock_out import is_knock_out
from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.notes import listed
from stitch_sweep.analysis.matrix.order_parameters import REGIONS, in_region
from stitch_sweep.core.errors import InputError

MOST_MISSING = 0.25
"""Largest share of cells without a value for which a matrix has a label; in a region it is a half."""

MOST_UNCONVERGED = 0.5
"""Largest share of values of unconverged stitches for which a matrix has a label."""


Withheld = Literal["gaps", "unconverged"]
"""Reasons to withhold a label: too few values, or too many of stitches that did not converge."""


def check_accuracies(matrix: Matrix, chance: float, test_images: int | None) -> None:
    """Check that a matrix, its networks' accuracies and chance are shares.

    Raises:
        InputError: with all problems.
    """
    problems = []
    if not 0 <= chance < 1:
        problems.append(f"chance: {chance:g} is not an accuracy; allowed: 0 <= chance < 1")
    if test_images is not None and test_images < 1:
        problems.append(f"test images: {test_images}; allowed: 1 or more")
    accuracies = {
        "the sender's own accuracy": matrix.sender_accuracy,
        "the receiver's own accuracy": matrix.receiver_accuracy,
    }
    problems += [
        f"{name}: {value:g} is outside 0 to 1; are these percent?"
        for name, value in accuracies.items()
        if not math.isnan(value) and not 0 <= value <= 1
    ]
    values = matrix.values.to_numpy(dtype=np.float64)
    lowest = -1 if matrix.is_difference else 0
    outside = np.argwhere((values < lowest) | (values > 1))
    if len(outside):
        i, j = outside[0]
        problems.append(
            f"sender layer {matrix.values.index[i]}, receiver layer {matrix.values.columns[j]}: "
            f"{values[i, j]:g} is outside {lowest} to 1; are these percent?"
        )
    if problems:
        raise InputError(*problems)


def check_quality(
    matrix: Matrix, where: pd.DataFrame, label: str
) -> tuple[str, Withheld | None, list[str]]:
    """Withhold a matrix's label if too few cells have a usable value, and note what is missing.

    Args:
        matrix: the matrix.
        where: its cells' regions; cells of no region don't count.
        label: the label of the values that the matrix has.

    Returns:
        The label, or `unclear` if it is withheld; the reason, None if it is not; and notes.
    """
    if is_knock_out(matrix):
        return (
            "unclear",
            "gaps",
            ["layers were knocked out: the gap matrix shows the loss of accuracy"],
        )
    inside = where.notna()
    cells = int(inside.to_numpy().sum())
    if not cells:
        return "unclear", "gaps", [_explain_no_regions(matrix)]
    counts = {
        name: int((table & inside).to_numpy().sum())
        for name, table in {
            "failed": matrix.failed,
            "missing": matrix.missing,
            "unconverged": matrix.unconverged,
        }.items()
    }
    notes = []
    if counts["failed"]:
        notes.append(
            f"{counts['failed']} of {cells} cells failed and count as cells without a value"
        )
    if counts["missing"]:
        notes.append(f"{counts['missing']} of {cells} cells have not been run")
    empty, sparse = _poor_regions(matrix, where)
    if empty:
        notes.append(f"no cell lies in the {listed(empty)} region")
    without_value = counts["failed"] + counts["missing"]
    values = cells - without_value
    withheld: Withheld | None = None
    if without_value > MOST_MISSING * cells or sparse:
        withheld = "gaps"
        notes.append("too many cells are without a value to name a shape")
    if counts["unconverged"]:
        note = f"{counts['unconverged']} of {values} values are of stitches that did not converge"
        if counts["unconverged"] > MOST_UNCONVERGED * values:
            withheld = withheld or "unconverged"
            note += ", too many to name a shape"
        notes.append(note)
    if withheld and label != "unclear":
        notes.append(f"the label of the existing values would be: {label}")
    return ("unclear" if withheld else label), withheld, notes


def _poor_regions(matrix: Matrix, where: pd.DataFrame) -> tuple[list[str], list[str]]:
    """List the regions without a cell, and those of which less than half the cells have a value."""
    names, defined = where.to_numpy(), matrix.values.notna().to_numpy()
    empty, sparse = [], []
    for region in REGIONS:
        members = in_region(names, region)
        if not members.any():
            empty.append(region)
        elif 2 * int((members & defined).sum()) < int(members.sum()):
            sparse.append(region)
    return empty, sparse


def _explain_no_regions(matrix: Matrix) -> str:
    """Explain that no cell belongs to a region."""
    if all(int(k) < 0 for k in matrix.values.columns):
        return "a matrix of images, stitched into the receiver's input: it has no shape to judge"
    if all(int(k) < 0 for k in matrix.values.index):
        return "the image is the only sender of this matrix: its row has no shape to judge"
    return "no cell belongs to a region: both networks need at least two layers from 0 on"
