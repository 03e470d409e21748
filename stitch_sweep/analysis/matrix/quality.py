"""What is wrong with a matrix, or missing from it, in words for a reader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from stitch_sweep.analysis.matrix.knock_out import is_knock_out
from stitch_sweep.analysis.matrix.matrices import Matrix
from stitch_sweep.analysis.matrix.order import LEAST_RANGE, REGIONS, members
from stitch_sweep.core.errors import InputError

MOST_MISSING = 0.25
"""Above this share of cells without a value a matrix is `unclear`; as it is above half in a region."""

MOST_UNCONVERGED = 0.5
"""Above this share of values whose stitches did not converge a matrix is `unclear`."""


Withheld = Literal["gaps", "unconverged"]
"""Why a label was taken back: too few values, or too many of stitches that did not converge."""


def check_accuracies(matrix: Matrix, chance: float, test_images: int | None) -> None:
    """Check that a matrix, its networks' accuracies and chance are shares.

    Raises:
        InputError: with all that is wrong.
    """
    problems = []
    if not 0 <= chance < 1:
        problems.append(f"chance: {chance:g} is not an accuracy; allowed: 0 <= chance < 1")
    if test_images is not None and test_images < 1:
        problems.append(f"test images: {test_images}; allowed: 1 or more")
    own = {
        "the sender's own accuracy": matrix.sender_accuracy,
        "the receiver's own accuracy": matrix.receiver_accuracy,
    }
    problems += [
        f"{name}: {value:g} is outside 0 to 1; are these percent?"
        for name, value in own.items()
        if not math.isnan(value) and not 0 <= value <= 1
    ]
    values = matrix.values.to_numpy(dtype=np.float64)
    outside = np.argwhere((values < 0) | (values > 1))
    if len(outside):
        i, j = outside[0]
        problems.append(
            f"sender layer {matrix.values.index[i]}, receiver layer {matrix.values.columns[j]}: "
            f"{values[i, j]:g} is outside 0 to 1; are these percent?"
        )
    if problems:
        raise InputError(*problems)


def scale_notes(best: float, chance: float) -> list[str]:
    """Why there is nothing to rescale by, if there isn't."""
    if math.isnan(best):
        return ["neither network's own accuracy is known, so there is no scale to judge by"]
    if best - chance < LEAST_RANGE:
        return [
            f"the better of the two networks by itself reaches {best:.2f}, which is near chance "
            f"({chance:.2f}): there is no scale to judge by"
        ]
    return []


def quality(
    matrix: Matrix, where: pd.DataFrame, label: str
) -> tuple[str, Withheld | None, list[str]]:
    """Take a label back where too little is there to give it, and say what is not there.

    Args:
        matrix: the matrix.
        where: its cells' regions; cells of no region don't count.
        label: what the values that are there make it.

    Returns:
        The label, or `unclear`; why it was taken back, None if it was not; and notes.
    """
    if is_knock_out(matrix):
        return "unclear", "gaps", ["layers were knocked out: the gap matrix shows what that costs"]
    inside = where.notna()
    cells = int(inside.to_numpy().sum())
    if not cells:
        return "unclear", "gaps", [_no_regions(matrix)]
    counted = {
        name: int((table & inside).to_numpy().sum())
        for name, table in {
            "failed": matrix.failed,
            "missing": matrix.missing,
            "unconverged": matrix.unconverged,
        }.items()
    }
    notes = []
    if counted["failed"]:
        notes.append(
            f"{counted['failed']} of {cells} cells failed and count as cells without a value"
        )
    if counted["missing"]:
        notes.append(f"{counted['missing']} of {cells} cells have not been run")
    names, known = where.to_numpy(), matrix.values.notna().to_numpy()
    empty, thin = [], []
    for region in REGIONS:
        own = members(names, region)
        if not own.any():
            empty.append(region)
        elif 2 * int((own & known).sum()) < int(own.sum()):
            thin.append(region)
    if empty:
        notes.append(f"no cell lies in the {listed(empty)} region")
    absent = counted["failed"] + counted["missing"]
    values = cells - absent
    withheld: Withheld | None = None
    if absent > MOST_MISSING * cells or thin:
        withheld = "gaps"
        notes.append("too many cells are without a value to name a shape")
    if counted["unconverged"]:
        note = f"{counted['unconverged']} of {values} values are of stitches that did not converge"
        if counted["unconverged"] > MOST_UNCONVERGED * values:
            withheld = withheld or "unconverged"
            note += ", too many to name a shape"
        notes.append(note)
    if withheld and label != "unclear":
        notes.append(f"the values that are there make it: {label}")
    return ("unclear" if withheld else label), withheld, notes


def _no_regions(matrix: Matrix) -> str:
    """Why no cell belongs to a region."""
    if all(int(k) < 0 for k in matrix.values.columns):
        return "a matrix of images, stitched into the receiver's input: it has no shape to judge"
    if all(int(k) < 0 for k in matrix.values.index):
        return "the image is the only sender here: its row has no shape to judge"
    return "no cell belongs to a region: both networks need at least two layers from 0 on"


def listed(names: Sequence[str]) -> str:
    """Join names: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def layer_notes(
    matrix: Matrix, sender_layers: int | None, receiver_layers: int | None
) -> list[str]:
    """What layers are left out, and what self-pairs and repeats mean for reading the matrix."""
    notes = []
    sides = (
        ("sender", matrix.values.index, sender_layers),
        ("receiver", matrix.values.columns, receiver_layers),
    )
    for role, layers, whole in sides:
        shown = sum(int(k) >= 0 for k in layers)
        total = whole if whole is not None else max((int(k) + 1 for k in layers), default=0)
        if shown < total:
            notes.append(f"only {shown} of the {role}'s {total} layers are in the matrix")
    if matrix.kind == "self-pair":
        notes.append(
            "one network with itself: where the two layers are the same the identity is an exact "
            "solution, so the band measures the optimiser as well"
        )
    if matrix.repeats > 1:
        notes.append(
            f"mean of {matrix.repeats} repeats of the same networks: they differ by the stitch's "
            "training only"
        )
    return notes


def shape_notes(label: str, p_value: float | None) -> list[str]:
    """What the null hypothesis of row and column effects says about a shape that it is about."""
    if label not in ("triangle", "diagonal", "upper"):
        return []
    if p_value is None:
        return ["too few cells to tell the shape from row and column effects"]
    if p_value >= 0.05:
        return [f"row and column effects alone could have made this shape (p = {p_value:.2f})"]
    return []
