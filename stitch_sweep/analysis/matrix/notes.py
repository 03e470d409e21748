"""Notes beside a label: sentences that a reader needs to interpret a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.order_parameters import LEAST_RANGE, REACHED, rescaled


def listed(names: Sequence[str]) -> str:
    """Join names: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def scale_notes(best: float, chance: float, relative: bool = False) -> list[str]:
    """Note that accuracies can't be rescaled, or that the matrix's maximum is the scale.

    Args:
        best: accuracy that counts as 1, NaN if unknown.
        chance: accuracy of guessing.
        relative: whether it is the matrix's maximum.
    """
    if relative and best - chance >= LEAST_RANGE:
        return [
            f"neither network's own accuracy is given, so the matrix's maximum, {best:.2f}, counts as 1: "
            "the label describes the shape alone, since a low matrix of good networks can't be told "
            "apart from a high matrix of poor networks"
        ]
    if relative:
        return [
            f"the matrix's maximum is {best:.2f}, which is near chance ({chance:.2f}): there is no "
            "scale to judge by"
        ]
    if math.isnan(best):
        return ["neither network's own accuracy is known, so there is no scale to judge by"]
    if best - chance < LEAST_RANGE:
        return [
            f"the better of the two networks by itself reaches {best:.2f}, which is near chance "
            f"({chance:.2f}): there is no scale to judge by"
        ]
    return []


def layer_notes(
    matrix: Matrix, sender_layers: int | None, receiver_layers: int | None
) -> list[str]:
    """Note the layers that are missing, and how to read self-pairs and repeats.

    Args:
        matrix: the matrix.
        sender_layers: number of layers of the complete sender, counted from layer 0, None if unknown.
        receiver_layers: the same for the receiver.
    """
    notes = []
    sides = (
        ("sender", matrix.values.index, sender_layers),
        ("receiver", matrix.values.columns, receiver_layers),
    )
    for role, layers, total_layers in sides:
        shown = sum(int(k) >= 0 for k in layers)
        total = (
            total_layers
            if total_layers is not None
            else max((int(k) + 1 for k in layers), default=0)
        )
        if shown < total:
            notes.append(f"only {shown} of the {role}'s {total} layers are in the matrix")
    if matrix.kind == "self-pair":
        notes.append(
            "one network with itself: where the two layers are the same the identity is an exact "
            "solution, so the band measures the optimizer as well"
        )
    if matrix.repeats > 1:
        notes.append(
            f"mean of {matrix.repeats} repeats of the same networks: they differ by the stitch's "
            "training only"
        )
    return notes


def shape_notes(label: str, p_value: float | None) -> list[str]:
    """Note if row and column effects alone may explain a shape.

    Args:
        label: the matrix's label.
        p_value: the result of `row_and_column_test`.
    """
    if label not in ("triangle", "diagonal", "upper"):
        return []
    if p_value is None:
        return ["too few cells to tell the shape from row and column effects"]
    if p_value >= 0.05:
        return [f"row and column effects alone could have made this shape (p = {p_value:.2f})"]
    return []


def training_notes(unknown: Sequence[str]) -> list[str]:
    """Note the networks for which no file records whether they are trained."""
    if not unknown:
        return []
    names = sorted(set(unknown))
    verb = "is" if len(names) == 1 else "are"
    return [f"no file records whether {listed(names)} {verb} trained; the verdict assumes so"]


def probe_notes(
    sender: str, probes: pd.DataFrame | None, *, chance: float, best_accuracy: float
) -> list[str]:
    """Note the accuracies that linear probes reach on the sender's layers.

    Args:
        sender: the sender's name.
        probes: columns `network`, `layer` and `test_accuracy`; None if nothing was probed.
        chance: accuracy of guessing.
        best_accuracy: the better of the two networks' own accuracies.
    """
    if probes is None:
        return []
    sender_probes = probes[probes["network"].astype(str) == sender]
    by_layer = sender_probes[sender_probes["layer"] >= 0].groupby("layer")
    accuracies = by_layer["test_accuracy"].mean().dropna()
    reached = rescaled(accuracies.to_frame(), chance, best_accuracy).iloc[:, 0]
    if reached.empty or reached.isna().any():
        return []
    layers = [int(k) for k in reached.index]
    sentence = (
        f"rescaled, a linear probe reaches {listed([f'{x:.2f}' for x in reached])} on the sender's "
        f"{'layer' if len(layers) == 1 else 'layers'} {listed([str(k) for k in layers])}"
    )
    readable = 0
    while readable < len(layers) and reached.iloc[-1 - readable] >= REACHED:
        readable += 1
    if not readable:
        return [
            f"{sentence}: up to the last of them the class is not linearly readable ({REACHED:g})"
        ]
    return [
        f"{sentence}: from layer {layers[-readable]} on ({REACHED:g} and more) the class is linearly "
        "readable anyway, so the accuracy of these layers below the band needs no shared representation"
    ]
