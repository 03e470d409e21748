"""The verdict on a matrix: its label, how certain it is, and the controls that explain it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from stitch_sweep.analysis.matrix.matrix import Matrix
from stitch_sweep.analysis.matrix.order_parameters import OrderParameters
from stitch_sweep.analysis.matrix.quality import Withheld
from stitch_sweep.analysis.matrix.uncertainty import Interval

CONTROL_TITLES = {
    "class_only": "class-only sender",
    "logits_only": "logits-only sender",
    "untrained_sender": "untrained sender",
    "untrained_receiver": "untrained receiver",
    "untrained_both": "untrained sender and receiver",
    "image": "image as sender",
}
"""The titles of the kinds of controls. `controls.py` has the rule by which each explains a shape."""

_SHAPE_PHRASES = {
    "triangle": "shaped like a triangle",
    "diagonal": "shaped like a diagonal",
    "full": "performs everywhere",
    "none": "performs nowhere",
    "upper": "shaped like an upper triangle",
    "gradient": "shaped like a gradient",
    "unclear": "of unclear shape",
}


@dataclass(frozen=True, eq=False)
class Verdict:
    """The judgment on one matrix.

    Attributes:
        matrix: the matrix.
        chance: accuracy of guessing.
        best_accuracy: accuracy that counts as 1: the better of the networks' own accuracies, or the
            matrix's maximum if `relative`; NaN if unknown.
        relative: whether neither own accuracy is known and the matrix's maximum replaces them.
        reduced: the judgment without receiver-free columns; see `Matrix.receiver_free`. None if the
            matrix has none, or no other column.
        label: one of `label_thresholds.LABELS`. It is also `unclear` where too many cells are missing,
            failed or unconverged. For a control it is a shape, never a finding: show `headline`.
        parameters: the region means and indices.
        intervals: of "triangle", "diagonal" and "order"; empty where nothing can be resampled.
        label_shares: label by the thresholds alone -> share of resamples; empty likewise.
        p_value: of the null hypothesis of row and column effects only; None with too few cells.
        reach: sender layer -> farthest receiver layer it reaches, NA where none; layers without a
            value are left out. See `order_parameters.reach`.
        cell_intervals: the lower and the upper ends of the cells' intervals, tables of the matrix's
            shape; None where nothing can be resampled.
        excess: the judgment on what the pair reaches beyond its logits-only control; None without one.
        control: a key of `CONTROL_TITLES`, None for a pair that is not a control.
        withheld: the reason that the label is withheld: "gaps" (too few cells have a value) or
            "unconverged"; None if it is not.
        explained_by: the kinds of controls that explain this pair; empty for `none` and
            `unclear`, which need no explanation.
        notes: sentences that help to interpret the label.
    """

    matrix: Matrix
    chance: float
    best_accuracy: float
    label: str
    parameters: OrderParameters
    intervals: dict[str, Interval] = field(default_factory=dict)
    label_shares: dict[str, float] = field(default_factory=dict)
    p_value: float | None = None
    reach: pd.Series = field(default_factory=lambda: pd.Series(dtype="Int64"))
    control: str | None = None
    withheld: Withheld | None = None
    explained_by: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    relative: bool = False
    reduced: Verdict | None = None
    cell_intervals: tuple[pd.DataFrame, pd.DataFrame] | None = None
    excess: Verdict | None = None

    @property
    def sound(self) -> bool:
        """Whether enough values are usable: the label is not withheld."""
        return self.withheld is None

    @property
    def headline(self) -> str:
        """The label to show; that of a control names the control and only describes its shape."""
        scale = ", relative to the matrix's maximum" if self.relative else ""
        if self.control is None:
            return f"{self.label}{scale}"
        return f"control ({CONTROL_TITLES[self.control]}), {self.shaped}{scale}"

    @property
    def shaped(self) -> str:
        """The label as a phrase for controls: "shaped like a triangle" does not claim a triangle."""
        return _SHAPE_PHRASES[self.label]

    def to_dict(self) -> dict[str, Any]:
        """Convert to data for JSON, None where undefined; `label` is the headline, `shape` the label."""
        numbers = ("lower", "band", "upper", "triangle", "diagonal", "order")
        shared = (*numbers, "label", "shape", "cells", "intervals", "p_value", "withheld", "notes")

        def further(verdict: Verdict | None, *others: str) -> dict[str, Any] | None:
            content = {} if verdict is None else verdict.to_dict()
            return {key: content[key] for key in (*shared, *others)} if content else None

        return {
            "sender": self.matrix.sender,
            "receiver": self.matrix.receiver,
            "kind": self.matrix.kind,
            "factors": self.matrix.factors,
            "value": self.matrix.value_name,
            "label": self.headline,
            "shape": self.label,
            **{name: _finite_or_none(getattr(self.parameters, name)) for name in numbers},
            "cells": self.parameters.cells,
            "intervals": {
                name: {
                    "low": _finite_or_none(interval.low),
                    "high": _finite_or_none(interval.high),
                    "level": interval.level,
                    "method": interval.method,
                }
                for name, interval in self.intervals.items()
            },
            "label_shares": self.label_shares,
            "p_value": self.p_value,
            "reach": {
                str(layer): None if pd.isna(farthest) else int(farthest)
                for layer, farthest in self.reach.items()
            },
            "chance": self.chance,
            "best_accuracy": _finite_or_none(self.best_accuracy),
            "relative": self.relative,
            "control": self.control,
            "sound": self.sound,
            "withheld": self.withheld,
            "explained_by": list(self.explained_by),
            "notes": list(self.notes),
            "receiver_free": sorted(self.matrix.receiver_free),
            "without_receiver_free": further(self.reduced),
            "beyond_logits": further(self.excess, "without_receiver_free"),
        }


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
