"""The words and numbers that figures and terminal put around and into a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stitch_sweep.analysis.matrix.matrices import Matrix


def number(value: float) -> str:
    """A value as it stands in a cell: two decimals, or three digits if it is 10 or more."""
    return f"{value:z.2f}" if abs(value) < 10 else f"{value:.3g}"


def subtitle(matrix: Matrix) -> str:
    """The networks' own test accuracies, and how many repeats were averaged; empty if unknown."""
    own = {"sender": matrix.sender_accuracy, "receiver": matrix.receiver_accuracy}
    known = {role: f"{accuracy:.2f}" for role, accuracy in own.items() if not math.isnan(accuracy)}
    parts = []
    if matrix.sender == matrix.receiver and known:
        parts.append(f"own test accuracy {next(iter(known.values()))}")
    elif known:
        listed = ", ".join(f"{role} {accuracy}" for role, accuracy in known.items())
        parts.append(f"own test accuracy: {listed}")
    if matrix.repeats > 1:
        parts.append(f"mean of {matrix.repeats} repeats")
    return "; ".join(parts)


def _layers(matrix: Matrix) -> list[int]:
    rows, columns = matrix.values.index, matrix.values.columns
    return [*rows] if matrix.kind == "knock-out" else [*rows, *columns]


def legend(matrices: Sequence[Matrix], missing: str) -> list[str]:
    """What layers and marks mean, a phrase each, for those that occur.

    Args:
        matrices: what is shown.
        missing: how a cell that was not run looks there.
    """
    layers = {int(k) for m in matrices for k in _layers(m)}
    meanings = [text for k, text in ((-1, "-1 the image"), (0, "0 the stem")) if k in layers]
    if max(layers) > 0:
        meanings.append("k the k-th block")
    phrases = [f"layer {', '.join(meanings)}"]
    if any(m.unconverged.any(axis=None) for m in matrices):
        phrases.append("* not converged")
    if any(m.failed.any(axis=None) for m in matrices):
        phrases.append("× failed")
    if any(m.missing.any(axis=None) for m in matrices):
        gaps = any(m.kind == "knock-out" for m in matrices)
        phrases.append(f"{missing} not run" + (", or beyond the last layer" if gaps else ""))
    fewer = sum(int(((m.finished > 0) & (m.finished < m.repeats)).sum().sum()) for m in matrices)
    if fewer:
        phrases.append(f"cells that average fewer repeats: {fewer}")
    return phrases
