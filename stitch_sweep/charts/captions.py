"""Texts in and around a matrix: numbers in cells, the networks' accuracies, the meaning of marks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stitch_sweep.analysis.matrix.matrix import Matrix


def format_value(value: float) -> str:
    """Format a value for a cell: two decimals below 10, else three significant digits."""
    return f"{value:z.2f}" if abs(value) < 10 else f"{value:.3g}"


def describe_networks(matrix: Matrix) -> str:
    """Give the networks' own test accuracies and the number of repeats; empty if unknown."""
    accuracies = {"sender": matrix.sender_accuracy, "receiver": matrix.receiver_accuracy}
    texts = {role: f"{value:.2f}" for role, value in accuracies.items() if not math.isnan(value)}
    parts = []
    if matrix.sender == matrix.receiver and texts:
        parts.append(f"own test accuracy {next(iter(texts.values()))}")
    elif texts:
        listed = ", ".join(f"{role} {accuracy}" for role, accuracy in texts.items())
        parts.append(f"own test accuracy: {listed}")
    if matrix.repeats > 1:
        parts.append(f"mean of {matrix.repeats} repeats")
    return "; ".join(parts)


def _layers(matrix: Matrix) -> list[int]:
    rows, columns = matrix.values.index, matrix.values.columns
    return [*rows] if matrix.kind == "knock-out" else [*rows, *columns]


def explain_marks(matrices: Sequence[Matrix], missing: str) -> list[str]:
    """Explain the layer numbers and the marks that occur in matrices, one phrase each.

    Args:
        matrices: the matrices that are shown.
        missing: the appearance of a cell that was not run, such as "grey".

    Returns:
        The layer numbers first, then a phrase per kind of mark.
    """
    layers = {int(layer) for matrix in matrices for layer in _layers(matrix)}
    meanings = [
        text for k, text in ((-1, "-1 the image"), (0, "0 the stem or first layer")) if k in layers
    ]
    if max(layers) > 0:
        meanings.append("k the k-th after it")
    phrases = [f"layer {', '.join(meanings)}"]
    if any(m.receiver_free for m in matrices):
        phrases.append("° says nothing about the receiver, which is linear from there on")
    if any(m.unconverged.any(axis=None) for m in matrices):
        phrases.append("* not converged")
    if any(m.failed.any(axis=None) for m in matrices):
        phrases.append("× failed")
    if any(m.missing.any(axis=None) for m in matrices):
        has_gaps = any(m.kind == "knock-out" for m in matrices)
        phrases.append(f"{missing} not run" + (", or beyond the last layer" if has_gaps else ""))
    fewer = sum(int(((m.finished > 0) & (m.finished < m.repeats)).sum().sum()) for m in matrices)
    if fewer:
        phrases.append(f"cells that average fewer repeats: {fewer}")
    return phrases
